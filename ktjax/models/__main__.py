"""`python -m ktjax.models`: what can be loaded, and how much of timm's list that is.

With names of families as arguments: their architectures.
"""

import argparse
import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

from ktjax import models
from ktjax.models.checkpoints import catalogue


def covered(timm: Mapping[str, Any], families: Mapping[str, Any]) -> list[tuple[str, int, int]]:
    """For each family its name, how many architectures it has and how many checkpoints timm has."""
    return [
        (
            name,
            len(module.VARIANTS),
            sum(len(timm["architectures"][arch]["checkpoints"]) for arch in module.VARIANTS),
        )
        for name, module in families.items()
    ]


def table(timm: Mapping[str, Any], families: Mapping[str, Any]) -> str:
    """The families, and what they cover of timm's checkpoints."""
    rows = covered(timm, families)
    lines = [f"{'family':<28} {'architectures':>13} {'ImageNet-1k checkpoints':>24}"]
    lines += [f"{name:<28} {count:>13,} {tags:>24,}" for name, count, tags in rows]
    count, tags = sum(row[1] for row in rows), sum(row[2] for row in rows)
    share = 100 * tags / timm["checkpoints"]
    return "\n".join(
        [
            *lines,
            f"{'all':<28} {count:>13,} {tags:>24,}",
            "",
            f"{tags:,} of the {timm['checkpoints']:,} ImageNet-1k checkpoints that timm "
            f"{timm['timm']} lists: {share:.1f} %.",
            f"The embedded zoo: {', '.join(models.zoo())}.",
        ]
    )


def architectures(timm: Mapping[str, Any], families: Mapping[str, Any], name: str) -> str:
    """The architectures of a family, with parameters, image size and tags of checkpoints."""
    lines = [f"{name}:"]
    for architecture in families[name].VARIANTS:
        spec = timm["architectures"][architecture]
        tags = " ".join(spec["checkpoints"]) or "-"
        facts = f"{spec['parameters'] / 1e6:>8.1f} M {spec['input'][0]:>4} px  "
        start = f"  {architecture:<44} {facts}"
        lines += textwrap.wrap(tags, 120, initial_indent=start, subsequent_indent=" " * len(start))
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> None:
    """Prints the table, or the architectures of the families that are named."""
    parser = argparse.ArgumentParser(prog="python -m ktjax.models", description=__doc__)
    parser.add_argument("family", nargs="*", help=f"of {', '.join(models.FAMILIES)}")
    chosen = parser.parse_args(arguments).family
    for name in chosen:
        if name not in models.FAMILIES:
            parser.error(f"No family '{name}'. Known: {', '.join(models.FAMILIES)}.")
    if not chosen:
        print(table(catalogue.TIMM, models.FAMILIES))
    for name in chosen:
        print(architectures(catalogue.TIMM, models.FAMILIES, name))


if __name__ == "__main__":
    main()
