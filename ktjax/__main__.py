"""`python -m ktjax` does what the console script `ktjax` does."""

from ktjax import main

if __name__ == "__main__":
    main.cli()
