"""A quickstart user's waiting time, by phase, on the first and the second start.

Each start is a separate process with a new workdir; the compilation cache is empty on the first.
The process runs the command line's own code, with a clock around its parts.
"""

import collections
import contextlib
import functools
import importlib
import json
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

PHASES = (
    "imports",  # until the job is called
    "models",  # found and read
    "images",  # drawn or decoded
    "first_step",  # until the first step of each run's program is done: most of it is compiling
    "training",  # all later steps
    "evaluation",  # of models and students, with compiling
    "checkpoints",
    "report",  # results.json, report.html and its figures
    "other",
)
_WORK = ("training", "evaluation")  # compared to these, the others should be small
_COMPILED = "/jax/core/compile/backend_compile_duration"


def run(*, config: str, flags: list[str], json_file: str | None) -> dict[str, Any]:
    """Runs a transfer twice.

    Args:
      config: of the transfer, as `ktjax --config=` takes it.
      flags: more of its flags.
      json_file: a file for the numbers; None: no file.

    Returns:
      For each start: seconds of every phase, in wall time and in CPU time (`cpu`); the time until
      the first step was done, and until the end; `rest`: all but training and evaluation;
      `compiling`: the part that XLA took to compile, or to read compiled programs.
    """
    found: dict[str, Any] = {"config": config}
    with tempfile.TemporaryDirectory() as folder:
        job = [f"--config={config}", f"--compiled={folder}/compiled", *flags]
        for time_ in ("first", "second"):
            measured = Path(folder) / f"{time_}.json"
            command = [sys.executable, "-m", "ktjax.bench.quickstart", str(measured)]
            command += [str(time.monotonic()), *job, f"--workdir={folder}/{time_}"]
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            if done.returncode:
                raise ValueError(f"The job failed: {done.stderr.strip()[-2000:]}")
            numbers = json.loads(measured.read_text(encoding="utf-8"))
            found |= {f"{time_}_{name}": number for name, number in numbers.items()}
    from ktjax import files
    from ktjax.experiment import workdir

    environment = workdir.environment()
    found |= {name: environment[name] for name in ("platform", "cpu_cores", "python", "jax")}
    if json_file is not None:
        files.write_json(Path(json_file), found)
    return found


class _Clock:
    """Seconds of each phase; of nested phases, the innermost counts."""

    def __init__(self, started: float):
        self._within = ["imports"]
        self._at = (started, 0.0)
        self.wall: collections.Counter[str] = collections.Counter()
        self.cpu: collections.Counter[str] = collections.Counter()

    def _tick(self) -> None:
        now = time.monotonic(), time.process_time()
        self.wall[self._within[-1]] += now[0] - self._at[0]
        self.cpu[self._within[-1]] += now[1] - self._at[1]
        self._at = now

    @contextlib.contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Counts the context as `name`; other threads count toward the main thread's phase."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        self._tick()
        self._within.append(name)
        try:
            yield
        finally:
            self._tick()
            self._within.pop()

    def around(self, owner: Any, name: str, phase: str) -> None:
        """Makes every later call of a function or method count as `phase`."""
        call = getattr(owner, name)

        @functools.wraps(call)
        def timed(*arguments: Any, **options: Any) -> Any:
            with self.phase(phase):
                return call(*arguments, **options)

        setattr(owner, name, timed)


def _watch(clock: _Clock, facts: dict[str, float], started: float) -> None:
    """Puts the clock around what jobs call."""
    import jax

    from ktjax import checkpoint, evaluate, loop, models
    from ktjax.data import pipeline
    from ktjax.experiment import training, workdir

    def compiled(event: str, seconds: float, **_: Any) -> None:
        facts["compiling_s"] += seconds * (event == _COMPILED)

    jax.monitoring.register_event_duration_secs_listener(compiled)
    for name in ("load", "blank"):
        clock.around(models, name, "models")
    clock.around(pipeline, "open_split", "images")
    clock.around(training, "fit", "training")
    clock.around(workdir, "finish", "report")
    for name in ("__init__", "save", "close"):
        clock.around(checkpoint.Checkpoints, name, "checkpoints")
    make, steps, begun = evaluate.make_predict, loop.run, set()

    def make_predict(*arguments: Any, **options: Any) -> Callable:
        predict = make(*arguments, **options)

        def ask(*given: Any, **how: Any) -> Any:
            with clock.phase("evaluation"):
                return predict(*given, **how)

        return ask

    def run_steps(step: Callable, *arguments: Any, **options: Any) -> Any:
        def first(*given: Any) -> Any:
            if step in begun:
                return step(*given)
            begun.add(step)
            with clock.phase("first_step"):
                after = jax.block_until_ready(step(*given))
            facts.setdefault("until_first_step_s", time.monotonic() - started)
            return after

        return steps(first, *arguments, **options)

    evaluate.make_predict, loop.run = make_predict, run_steps


def _child(measured: str, started: str, flags: list[str]) -> None:
    """Runs the job of the flags, and writes its times to a file."""
    clock, facts = _Clock(float(started)), {"compiling_s": 0.0}
    main = importlib.import_module("ktjax.main")
    importlib.import_module("ktjax.launch")
    clock.around(importlib.import_module("ktjax.jobs.transfer"), "run", "other")
    _watch(clock, facts, float(started))
    sys.argv = ["ktjax", *flags]
    try:
        main.cli()
    except SystemExit as end:
        if end.code:
            raise
    numbers = {f"{name}_s": clock.wall[name] for name in PHASES}
    numbers |= {f"{name}_cpu_s": clock.cpu[name] for name in PHASES}
    for kind in ("s", "cpu_s"):
        numbers[f"rest_{kind}"] = sum(
            numbers[f"{name}_{kind}"] for name in PHASES if name not in _WORK
        )
    numbers |= facts | {"until_report_s": time.monotonic() - float(started)}
    Path(measured).write_text(json.dumps(numbers), encoding="utf-8")


if __name__ == "__main__":
    _child(sys.argv[1], sys.argv[2], sys.argv[3:])
