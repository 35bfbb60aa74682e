"""How the k largest logits serve an objective: as all do, nearly so, or not at all."""

from collections.abc import Mapping
from typing import Any

from ktjax import objectives


def of_top_k(name: str, options: Mapping[str, Any], k: int) -> str:
    """EXACT or APPROXIMATE: how answers of the k largest logits serve an objective.

    ValueError: not at all, and why.
    """
    served = objectives.OBJECTIVES[name].top_k
    top_k = options.get("top_k")
    averages = options.get("neutral") in objectives.AVERAGES
    if served == objectives.NOT or averages:
        what = "features" if objectives.OBJECTIVES[name].features else "all logits"
        raise ValueError(
            f"Objective '{name}' needs {'an average of two models' if averages else what}, and the "
            f"{k} largest logits do not say it: keep all (config.store_top_k=None)."
        )
    if top_k is None or served == objectives.EXACT:
        return served
    if top_k > k:
        raise ValueError(
            f"Objective '{name}' compares top_k={top_k} classes, and only the {k} largest logits "
            "are kept: set config.store_top_k to as many, or to None for all."
        )
    if options.get("top_k_of") == "teacher":
        raise ValueError(
            f"Objective '{name}' with top_k_of='teacher' asks the initial student about the "
            f"teacher's classes, which need not be among its own {k} largest: set "
            "config.store_top_k=None."
        )
    return objectives.EXACT
