"""How fast ktjax is: `python -m ktjax.bench NAME`."""
