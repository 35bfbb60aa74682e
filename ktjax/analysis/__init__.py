"""What predictions say about knowledge and its transfer: NumPy and plots, no models, no devices."""
