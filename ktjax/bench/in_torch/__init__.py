"""The same work in PyTorch, to be measured beside: imported only where torch is installed."""
