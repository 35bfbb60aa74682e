"""The same work in PyTorch, for comparison: imported only if torch is installed."""
