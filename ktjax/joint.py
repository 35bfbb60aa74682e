"""Several classifiers that train jointly, with the interface of one."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from ktjax.classifier import Classifier, Output, Variables


@dataclasses.dataclass(frozen=True)
class Joint:
    """M classifiers with the same classes; `apply` runs all of them, with logits [B, M, C].

    Each prepares the images for itself. In `params` and `batch_stats`, each member's variables are
    stored under its number, as a string.
    """

    members: tuple[Classifier, ...]

    @property
    def keys(self) -> tuple[str, ...]:
        """The names of the members in the variables."""
        return tuple(str(i) for i in range(len(self.members)))

    @property
    def variables(self) -> dict[str, Any]:
        """The variables of all members."""
        params, stats = {}, {}
        for key, member in zip(self.keys, self.members, strict=True):
            params[key] = member.variables["params"]
            if member.variables.get("batch_stats"):
                stats[key] = member.variables["batch_stats"]
        return {"params": params} | ({"batch_stats": stats} if stats else {})

    def apply(
        self,
        variables: Variables,
        image_BxHxWx3: jax.Array,
        *,
        train: bool = False,
        rngs: Mapping[str, jax.Array] | None = None,
        freeze_stats: bool = False,
    ) -> tuple[Output, Any]:
        """Classifies uint8 images: logits [B, M, C], no features, and `batch_stats`."""
        logits, stats = [], {}
        for i, (key, member) in enumerate(zip(self.keys, self.members, strict=True)):
            own_rngs = rngs and {name: jax.random.fold_in(rng, i) for name, rng in rngs.items()}
            output, own_stats = member.apply(
                _part(variables, key),
                image_BxHxWx3,
                train=train,
                rngs=own_rngs,
                freeze_stats=freeze_stats,
            )
            logits.append(output.logits)
            if own_stats:
                stats[key] = own_stats
        return Output(logits=jnp.stack(logits, axis=1), features=None), stats

    def with_variables(self, variables: Variables) -> tuple[Classifier, ...]:
        """The members with their part of the variables."""
        return tuple(
            dataclasses.replace(member, variables=_part(variables, key))
            for key, member in zip(self.keys, self.members, strict=True)
        )


def _part(variables: Variables, key: str) -> dict[str, Any]:
    return {kind: of_all[key] for kind, of_all in variables.items() if key in of_all}
