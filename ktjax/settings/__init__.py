"""What a config says, read once: a frozen, typed record per job, and the parts that jobs share."""
