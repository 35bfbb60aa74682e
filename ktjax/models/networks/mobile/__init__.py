"""Blocks, stages and definitions of EfficientNet and MobileNet."""
