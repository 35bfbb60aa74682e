"""One step on many devices, and batches onto them."""

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

# The name of the axis that steps sum over; BatchNorm layers take their statistics over it too.
AXIS = "batch"


def _mesh() -> Mesh:
    devices = jax.local_devices()
    return jax.make_mesh((len(devices),), (AXIS,), devices=devices, axis_types=(AxisType.Auto,))


def data_parallel(step: Callable) -> Callable:
    """`step(state, frozen, batch, key)` over the local devices.

    The batch has a leading axis of devices. State, frozen models and key are the same everywhere
    and have no such axis, before and after: nothing is replicated by hand, and checkpoints see
    plain arrays. The state is donated.
    """
    return jax.pmap(
        step,
        axis_name=AXIS,
        in_axes=(None, None, 0, None),
        out_axes=(None, None),
        donate_argnums=(0,),
    )


def data_parallel_forward(forward: Callable) -> Callable:
    """`forward(frozen, batch)` over the local devices; its outputs keep the axis of devices."""
    return jax.pmap(forward, axis_name=AXIS, in_axes=(None, 0))


def replicated() -> NamedSharding:
    """The sharding of what is the same on every local device."""
    return NamedSharding(_mesh(), PartitionSpec())


def replicate(tree: Any) -> Any:
    """Puts a tree on every local device once, so that no step has to."""
    return jax.device_put(tree, replicated())


def to_devices(batches: Iterator[Mapping[str, np.ndarray]]) -> Iterator[dict[str, jax.Array]]:
    """Splits batches over the devices, one batch ahead: the next is copied while a step runs."""
    sharding = NamedSharding(_mesh(), PartitionSpec(AXIS))

    def put(batch: Mapping[str, np.ndarray]) -> dict[str, jax.Array]:
        devices = jax.local_device_count()
        split = {k: v.reshape(devices, len(v) // devices, *v.shape[1:]) for k, v in batch.items()}
        return jax.device_put(split, sharding)

    ahead = None
    for batch in batches:
        behind, ahead = ahead, put(batch)
        if behind is not None:
            yield behind
    if ahead is not None:
        yield ahead


def check_batch_size(batch_size: int, field: str) -> None:
    """Raises ValueError unless the batch divides by the devices."""
    devices = jax.local_device_count()
    if batch_size % devices:
        above = -(-batch_size // devices) * devices
        raise ValueError(
            f"config.{field}={batch_size} does not divide by the {devices} devices: {above} does."
        )
