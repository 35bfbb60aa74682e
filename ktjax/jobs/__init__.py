"""What a user launches. The only place where data, models, training and files meet."""
