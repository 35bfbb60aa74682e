"""Runs steps on many devices and in many processes, and puts batches on them.

Every process runs the same program on global arrays: they span the devices of all processes, and
each process sees its own part. A layout says how state and frozen models are sharded.
"""

import math
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

# The name of the axis that steps sum over; BatchNorm layers compute their statistics over it, too.
AXIS = "batch"
# Arrays with fewer elements are not worth sharding: every device holds them whole.
_SMALL = 1024
_LATE = 90.0  # seconds until every process sees a file on a shared disk

_Found = TypeVar("_Found")


def _mesh() -> Mesh:
    # Not jax.make_mesh: it rejects GPUs on several hosts (each is a slice to XLA), and orders TPUs
    # by their ring, while pmap takes them in the given order.
    return Mesh(np.asarray(jax.devices()), (AXIS,), axis_types=(AxisType.Auto,))


def _one_after_another(step: Callable) -> Callable:
    """Runs the step on batches along a leading axis, which the metrics then have, too."""

    def steps(state, frozen, batches, key):
        return jax.lax.scan(lambda state, batch: step(state, frozen, batch, key), state, batches)

    return steps


def data_parallel(step: Callable, *, several: bool = False) -> Callable:
    """`step(state, frozen, batch, key)` with a share of the batch on each device.

    The batch has a leading device axis; with `several` also a second axis of steps, which the
    metrics then have, too. State, frozen models and key are the same everywhere and never have
    these axes: nothing is replicated by hand, and checkpoints see plain arrays. The state is
    donated.
    """
    step = _one_after_another(step) if several else step
    if jax.process_count() == 1:
        return jax.pmap(
            step,
            axis_name=AXIS,
            in_axes=(None, None, 0, None),
            out_axes=(None, None),
            donate_argnums=(0,),
        )

    # What pmap does internally. pmap itself returns arrays local to a process, and cannot donate.
    def on_device(state, frozen, batch, key):
        return step(state, frozen, jax.tree.map(lambda x: x[0], batch), key)

    everywhere = PartitionSpec()
    mapped = jax.shard_map(
        on_device,
        mesh=_mesh(),
        in_specs=(everywhere, everywhere, PartitionSpec(AXIS), everywhere),
        out_specs=(everywhere, everywhere),
        check_vma=False,
    )
    return jax.jit(mapped, donate_argnums=(0,))


def fully_sharded(step: Callable, *, several: bool = False) -> Callable:
    """The same, with state and frozen models sharded over the devices: FSDP.

    For models that do not fit on one device. XLA gathers a layer's parameters when it needs them;
    the step is that of `data_parallel`, on a single member that holds the whole batch.
    """
    member = jax.vmap(step, (None, None, 0, None), (None, None), axis_name=AXIS)
    run = _one_after_another(member) if several else member

    def join(x):
        if several:  # [devices, steps, ...] -> [steps, 1, ...]
            return jnp.moveaxis(x, 0, 1).reshape(x.shape[1], 1, -1, *x.shape[3:])
        return x.reshape(1, -1, *x.shape[2:])

    def whole(state, frozen, batch, key):
        after, metrics = run(state, frozen, jax.tree.map(join, batch), key)
        return jax.lax.with_sharding_constraint(
            (after, metrics), (shardings(after, "fsdp"), replicated())
        )

    return jax.jit(whole, donate_argnums=(0,))


def _whole(shape: tuple[int, ...]) -> PartitionSpec:
    del shape
    return PartitionSpec()


def _largest_axis(shape: tuple[int, ...]) -> PartitionSpec:
    """Shards the largest axis divisible by the number of devices, if there is one and it pays."""
    fitting = [axis for axis, size in enumerate(shape) if size % jax.device_count() == 0]
    if not fitting or math.prod(shape) < _SMALL:
        return PartitionSpec()
    axis = max(fitting, key=lambda axis: shape[axis])
    return PartitionSpec(*[None] * axis, AXIS)


class Layout(NamedTuple):
    """How a step runs on all devices."""

    compile: Callable[..., Callable]  # compile(step, several=...)
    spec: Callable[[tuple[int, ...]], PartitionSpec]  # how an array of some shape is sharded


# The choices of config.parallel.
LAYOUTS = {
    "pmap": Layout(data_parallel, _whole),
    "fsdp": Layout(fully_sharded, _largest_axis),
}


def compile_forward(forward: Callable) -> Callable:
    """`forward(frozen, batch)`, compiled for frozen models in any layout.

    Batch and output have a leading device axis; every process sees the whole output.
    """
    return jax.jit(jax.vmap(forward, in_axes=(None, 0), axis_name=AXIS), out_shardings=replicated())


def is_mapped() -> bool:
    """Whether the traced code runs along AXIS: in one of this file's steps or forward passes."""
    try:
        jax.lax.axis_index(AXIS)
    except NameError:
        return False
    return True


def replicated() -> NamedSharding:
    """The sharding of arrays that are the same on every device."""
    return NamedSharding(_mesh(), PartitionSpec())


def shardings(tree: Any, layout: str) -> Any:
    """The shardings of a tree of arrays, or of their shapes, in a layout of LAYOUTS."""
    mesh = _mesh()
    return jax.tree.map(lambda x: NamedSharding(mesh, LAYOUTS[layout].spec(np.shape(x))), tree)


def place(tree: Any, layout: str) -> Any:
    """Puts a tree in its layout once, so that no step has to.

    Every process must have the same tree.
    """

    def leaf(x: Any, sharding: NamedSharding) -> jax.Array:
        if sharding.is_fully_addressable or not getattr(x, "is_fully_addressable", True):
            return jax.device_put(x, sharding)
        host = np.asarray(x)
        return jax.make_array_from_callback(host.shape, sharding, lambda index: host[index])

    return jax.tree.map(leaf, tree, shardings(tree, layout))


def replicate(tree: Any) -> Any:
    """Puts a whole tree on every device."""
    return place(tree, "pmap")


def fetch(tree: Any) -> Any:
    """The tree as NumPy arrays, whole in every process."""

    def leaf(x: Any) -> np.ndarray:
        if isinstance(x, jax.Array) and not (x.is_fully_addressable or x.is_fully_replicated):
            x = jax.device_put(x, replicated())
        return np.asarray(x)

    return jax.tree.map(leaf, tree)


def random_key(seed: int) -> jax.Array:
    """A replicated key, for steps on all devices."""
    return jax.jit(lambda: jax.random.key(seed), out_shardings=replicated())()


def local_rows(batch_size: int) -> np.ndarray:
    """Which rows of a batch this process makes: those of its devices, in device order."""
    devices = _mesh().devices.tolist()
    here = [i for i, device in enumerate(devices) if device.process_index == jax.process_index()]
    return np.arange(batch_size).reshape(len(devices), -1)[here].reshape(-1)


def to_devices(
    batches: Iterator[Mapping[str, np.ndarray]], *, several: bool = False
) -> Iterator[dict[str, jax.Array]]:
    """Splits batches over the devices, one batch ahead: the next is copied while a step runs.

    Args:
      batches: batches with the rows that `local_rows` gives.
      several: whether they have an axis of steps before the one of rows.

    Yields:
      Global batches with a leading device axis.
    """
    sharding = NamedSharding(_mesh(), PartitionSpec(AXIS))
    here = jax.local_device_count()

    def put(rows: np.ndarray) -> jax.Array:
        if several:
            split = rows.reshape(len(rows), here, -1, *rows.shape[2:]).swapaxes(0, 1)
        else:
            split = rows.reshape(here, -1, *rows.shape[1:])
        # Explicit, not inferred: processes that disagree must fail here, not later.
        shape = (jax.device_count(), *split.shape[1:])
        return jax.make_array_from_process_local_data(sharding, split, shape)

    ahead = None
    for batch in batches:
        behind, ahead = ahead, {name: put(rows) for name, rows in batch.items()}
        if behind is not None:
            yield behind
    if ahead is not None:
        yield ahead


def is_first() -> bool:
    """Whether this process is the one that writes."""
    return jax.process_index() == 0


def wait_for_all(name: str) -> None:
    """Returns once every process has reached this point; `name` says which one."""
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices(name)


def as_first_sees(mine: bool) -> bool:
    """Process 0's answer: the others may see an older state of a shared disk."""
    if jax.process_count() == 1:
        return mine
    return bool(multihost_utils.broadcast_one_to_all(np.asarray(mine)))


def seen_by_all(mine: bool) -> bool:
    """Whether the answer of every process is yes."""
    if jax.process_count() == 1:
        return mine
    return bool(np.all(multihost_utils.process_allgather(np.asarray(mine))))


def as_first_finds(find: Callable[[], _Found | None], where: str) -> _Found | None:
    """The result of `find` if it finds something in process 0; otherwise None, in all processes.

    Args:
      find: looks on a shared disk. The other processes may see a file later than process 0 (NFS
        caches a missing file for up to a minute), so they look again until they do.
      where: what the processes must share, for the error.

    Raises:
      ValueError: this process never sees it.
    """
    found = find()
    if not as_first_sees(found is not None):
        return None
    until = time.monotonic() + _LATE
    while found is None:
        if time.monotonic() > until:
            raise ValueError(
                f"Process {jax.process_index()} does not see what process 0 has in {where}, which "
                "all processes must share."
            )
        time.sleep(0.5)
        found = find()
    return found


def told_by_all(mine: str) -> list[str]:
    """The strings of all processes, in process order."""
    if jax.process_count() == 1:
        return [mine]
    said = np.frombuffer(mine.encode(), np.uint8)
    lengths = multihost_utils.process_allgather(np.asarray(len(said)))
    padded = np.zeros(lengths.max(), np.uint8)
    padded[: len(said)] = said
    rows = multihost_utils.process_allgather(padded)
    return [row[:length].tobytes().decode() for row, length in zip(rows, lengths, strict=True)]


def check_batch_size(batch_size: int, field: str, *, microbatches: int = 1) -> None:
    """Raises ValueError unless the batch divides evenly over devices and their microbatches."""
    parts = jax.device_count() * microbatches
    if batch_size % parts:
        above = -(-batch_size // parts) * parts
        times = f" times {microbatches} microbatches" if microbatches > 1 else ""
        raise ValueError(
            f"config.{field}={batch_size} is not divisible by the {jax.device_count()} devices"
            f"{times}: {above} is."
        )
