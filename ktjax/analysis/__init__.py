"""What predictions say about knowledge and its transfer: NumPy, no models."""
