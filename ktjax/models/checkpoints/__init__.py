"""Checkpoints: where their files are, how they are read and written."""
