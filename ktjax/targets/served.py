"""How well the k largest logits serve an objective: like all logits, approximately, or not."""

from collections.abc import Mapping
from typing import Any

from ktjax import objectives


def of_top_k(name: str, options: Mapping[str, Any], k: int) -> str:
    """EXACT or APPROXIMATE: how well the k largest logits serve an objective.

    ValueError: they do not, with the reason.
    """
    served = objectives.OBJECTIVES[name].top_k
    top_k = options.get("top_k")
    averages = options.get("neutral") in objectives.AVERAGES
    if served == objectives.NOT or averages:
        what = "features" if objectives.OBJECTIVES[name].features else "all logits"
        raise ValueError(
            f"Objective '{name}' needs {'an average of two models' if averages else what}, which "
            f"the {k} largest logits do not give: keep all (config.store_top_k=None)."
        )
    if top_k is None or served == objectives.EXACT:
        return served
    if top_k > k:
        raise ValueError(
            f"Objective '{name}' compares top_k={top_k} classes, but only the {k} largest logits "
            "are kept: set config.store_top_k to at least as many, or to None for all."
        )
    if options.get("top_k_of") == "teacher":
        raise ValueError(
            f"Objective '{name}' with top_k_of='teacher' needs the initial student's logits for "
            f"the teacher's classes, which may not be among its own {k} largest: set "
            "config.store_top_k=None."
        )
    return objectives.EXACT
