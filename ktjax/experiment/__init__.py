"""What jobs share: one training run, inputs, the workdir, logs."""
