"""Orbax: save, restore the latest, keep two and the best. Knows pytrees, not models."""

from pathlib import Path
from typing import Any

import jax
import orbax.checkpoint as ocp
from orbax.checkpoint import checkpoint_managers as policies


class Checkpoints:
    """The checkpoints of one training run, named by completed updates.

    Kept are the latest two and the one with the best score.
    """

    def __init__(self, folder: Path):
        # `best_fn` with `max_to_keep` would delete the latest ones: resume would go far back.
        keep = policies.AnyPreservationPolicy(
            [policies.LatestN(2), policies.BestN(get_metric_fn=lambda m: m["score"], n=1)]
        )
        self._manager = ocp.CheckpointManager(
            folder.absolute(), options=ocp.CheckpointManagerOptions(preservation_policy=keep)
        )

    def latest(self) -> int | None:
        """The step of the latest checkpoint; None if there is none."""
        return self._manager.latest_step()

    def save(self, step: int, state: Any, *, record: Any, score: float) -> None:
        """Saves asynchronously.

        Args:
          step: completed updates.
          state: a pytree of arrays; may be donated as soon as this returns.
          record: JSON-able, restored as it is.
          score: larger is better.
        """
        self._manager.save(
            step,
            args=ocp.args.Composite(
                state=ocp.args.StandardSave(state), record=ocp.args.JsonSave({"record": record})
            ),
            metrics={"score": score},
        )

    def restore(self, like: Any) -> tuple[Any, Any]:
        """The latest (state, record).

        `like` is the state in shapes, or a state, with the shardings that it is to have: it may
        have been saved on other devices, and by another number of processes.
        """
        abstract = jax.tree.map(
            lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), like
        )
        restored = self._manager.restore(
            self.latest(),
            args=ocp.args.Composite(
                state=ocp.args.StandardRestore(abstract), record=ocp.args.JsonRestore()
            ),
        )
        return restored["state"], restored["record"]["record"]

    def close(self) -> None:
        """Waits until everything is on disk."""
        self._manager.wait_until_finished()
        self._manager.close()
