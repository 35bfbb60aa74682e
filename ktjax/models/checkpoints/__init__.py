"""Checkpoints: where their files lie, how they are read and written."""
