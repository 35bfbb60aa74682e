"""What frozen models say of a batch: asked in every step, or stored."""
