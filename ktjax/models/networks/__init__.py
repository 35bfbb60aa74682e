"""The networks: a file per family, by timm's names."""
