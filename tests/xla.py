"""What the tests ask of XLA, in this process and in those that they start."""

import os

# Compiling takes most of the time of the tests. With little optimization it takes half, the sums
# are rounded in another order, and what runs long runs longer: OPTIMIZED is for that.
QUICK = "--xla_backend_optimization_level=0"
OPTIMIZED = {"xla_backend_optimization_level": 3}  # compiler options of one program


def be_quick():
    """From now on, where XLA_FLAGS is not set: an empty one asks for what users have."""
    os.environ.setdefault("XLA_FLAGS", QUICK)


def flags(devices):
    """XLA_FLAGS of a process with so many devices, which compiles as this one does."""
    count = f"--xla_force_host_platform_device_count={devices}"
    return f"{os.environ.get('XLA_FLAGS', '')} {count}".strip()
