"""A run's metrics: JSON lines, and TensorBoard events without TensorFlow."""

import json
from pathlib import Path

import tensorboardX

from ktjax import files, trackers
from ktjax.mirror import Mirror


class Writer:
    """Appends to `metrics.jsonl` in the workdir, and to the run's TensorBoard events.

    A resumed run removes what it wrote after its last checkpoint, so that its metrics end up like
    an uninterrupted run's. `flush` uploads everything to a bucket.
    """

    def __init__(self, workdir: Path, *, run: str, first_step: int):
        self._run = run
        self._mirror = Mirror(workdir)
        path = self._mirror.fetch(files.METRICS)
        if path.exists():
            lines = [
                line
                for line in path.read_text(encoding="utf-8", errors="replace").splitlines()
                if self._keep(line, first_step)
            ]
            files.write_whole(path, "".join(f"{line}\n" for line in lines))
        self._lines = path.open("a", buffering=1, encoding="utf-8")
        self._events = tensorboardX.SummaryWriter(
            str(self._mirror.local / files.TENSORBOARD / run), purge_step=first_step + 1
        )

        self._tracker = trackers.begin(workdir, run, self._mirror.local)
        if self._tracker is not None:
            links = tracked(workdir) | {run: self._tracker.link}
            files.write_json(workdir / files.TRACKED, links)

    def _keep(self, line: str, first_step: int) -> bool:
        try:
            record = json.loads(line)
            return record["run"] != self._run or record["step"] <= first_step
        except (ValueError, TypeError, KeyError, RecursionError):
            return False  # the process died while it wrote this line, or a disk damaged it

    def write(self, step: int, metrics: dict[str, float]) -> None:
        """One record: metrics after `step` completed updates."""
        self._lines.write(json.dumps({"run": self._run, "step": step} | metrics) + "\n")
        for name, value in metrics.items():
            self._events.add_scalar(name, value, step)
        if self._tracker is not None:
            self._tracker.log(step, metrics)

    def flush(self) -> None:
        """Makes the metrics durable, before a checkpoint that relies on them."""
        self._lines.flush()
        self._events.flush()
        self._mirror.upload()

    def close(self) -> None:
        """Flushes everything."""
        self._lines.close()
        self._events.close()
        if self._tracker is not None:
            self._tracker.close()
        self._mirror.close()


def tracked(workdir: Path) -> dict[str, str]:
    """The tracker link of each run of a workdir; empty: no tracker was used."""
    path = workdir / files.TRACKED
    return files.read_json(path) if path.exists() else {}
