"""The cost of saving a student: how long it blocks the run, how long it takes, its size."""

import secrets
import tempfile
import time
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ktjax import parallel, paths, train
from ktjax.bench import step
from ktjax.checkpoint import Checkpoints
from ktjax.experiment import workdir

_MACHINE = ("platform", "cpu_cores", "python", "jax")


def run(*, student: str, rounds: int, folder: str | None, json_file: str | None) -> dict[str, Any]:
    """Saves and restores the state of a transfer: parameters, statistics, momentum.

    Args:
      student: an architecture, with random weights and 1,000 classes.
      rounds: saves after the first one.
      folder: where to save; None: a temporary folder.
      json_file: a file to add the numbers of this student to; None: no file.

    Returns:
      How long the first save blocks the run, which may be longer than others do. Medians of the
      others: how long `save` blocks the run, how long until everything is on disk, and how long
      reading the latest takes, as in a resumed job.
    """
    classifier = step.drawn(student)
    objective, optimizer = step.kl_dp()
    began = jax.jit(_filled)(
        train.init_state(
            classifier.variables,
            objective=objective,
            optimizer=optimizer,
            outputs=train.output_shapes(classifier, (), size=32),
            label_N=np.zeros(1, np.int32),
            slow=False,
            key=jax.random.key(0),
        )
    )
    state = parallel.replicate(began)
    times: dict[str, list[float]] = {"blocked_s": [], "written_s": [], "restored_s": []}
    with tempfile.TemporaryDirectory() as temporary:
        where = Path(temporary) if folder is None else paths.absolute(Path(folder))
        where /= f"ktjax-bench-{secrets.token_hex(8)}"  # it is deleted
        for number in range(rounds + 1):
            start = time.perf_counter()
            checkpoints = Checkpoints(where, of={"run": "bench"})
            opened = time.perf_counter()
            checkpoints.save(number, state, record={}, score=None)
            blocked = time.perf_counter()
            checkpoints.close()
            written = time.perf_counter()
            checkpoints = Checkpoints(where, of={"run": "bench"})
            jax.block_until_ready(checkpoints.restore(state)[0])
            restored = time.perf_counter()
            checkpoints.close()
            times["blocked_s"].append(blocked - opened)
            times["written_s"].append(written - start)
            times["restored_s"].append(restored - written)
        size = sum(file.stat().st_size for file in where.rglob("*") if file.is_file())
        kept = len([name for name in paths.names(where) if name.isdecimal()])
        paths.delete(where)
    environment = workdir.environment()
    found = {
        "student": student,
        "parameters": classifier.num_parameters(),
        "checkpoint_mb": size / kept / 1e6,
        "first_blocked_s": times["blocked_s"][0],
        **{name: float(np.median(of_rounds[1:])) for name, of_rounds in times.items()},
        **{name: environment[name] for name in _MACHINE},
    }
    if json_file is not None:
        step.keep(Path(json_file), student, found)
    return found


def _filled(state: train.State) -> train.State:
    """Fills the state with random numbers, as zeros would compress to nothing."""

    def leaf(x: jax.Array) -> jax.Array:
        if not jnp.issubdtype(x.dtype, jnp.floating):
            return x
        return jax.random.normal(jax.random.key(x.size), x.shape)

    return jax.tree.map(leaf, state)
