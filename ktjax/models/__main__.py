"""`python -m ktjax.models`: which models ktjax can load, and how much of timm's list they cover.

With family names as arguments: their architectures. `coverage`: the same by timm's files, with
imported models. `import NAME FOLDER`: imports timm/NAME, hf:ORGANIZATION/REPOSITORY or a folder
that one of them wrote, with torch, into a folder that ktjax.load_model reads without. `import
FILE.safetensors FOLDER --architecture=NAME` makes such a folder of a single file with timm's names,
without torch.
"""

import argparse
import sys
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ktjax import files, models
from ktjax.classifier import Classifier
from ktjax.models import coverage, imported
from ktjax.models.checkpoints import catalogue, hf_kinds, hub, weights

_OF_TORCH = ("drop_rate", "drop_path_rate")
_OF_FILE = ("architecture", "classes", "mean", "std", "interpolation", "crop_pct")


def covered(timm: Mapping[str, Any], families: Mapping[str, Any]) -> list[tuple[str, int, int]]:
    """(name, number of architectures, number of timm's checkpoints) of each family."""
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


def import_model(arguments: Sequence[str]) -> None:
    """`import NAME FOLDER`, with the options that `--help` lists."""
    parser = argparse.ArgumentParser(prog="python -m ktjax.models import")
    parser.add_argument(
        "name", help="timm/NAME, hf:ORGANIZATION/REPOSITORY, a folder, or a .safetensors file"
    )
    parser.add_argument("folder", help="output; ktjax.load_model reads it without torch")
    parser.add_argument("--size", type=int, help="image size, if not the checkpoint's")
    for rate in _OF_TORCH:
        flag = f"--{rate.replace('_', '-')}"
        parser.add_argument(flag, type=float, help="of timm's model, in training")
    of_file = parser.add_argument_group("for a .safetensors file, which does not have them")
    of_file.add_argument("--architecture", help="timm's name of the network")
    of_file.add_argument("--classes", help="a text file with one class name per line")
    of_file.add_argument("--mean", type=float, nargs=3, help="per channel, 0 .. 1")
    of_file.add_argument("--std", type=float, nargs=3, help="per channel")
    of_file.add_argument("--interpolation", help=", ".join(weights.INTERPOLATIONS))
    of_file.add_argument("--crop-pct", type=float, help="share of the shorter side in evaluation")
    chosen = parser.parse_args(arguments)
    given = {name: value for name, value in vars(chosen).items() if value is not None}
    name, folder = given.pop("name"), given.pop("folder")
    if "size" in given:
        given["size"] = (chosen.size, chosen.size)
    single = name.endswith(".safetensors")
    if Path(name).suffix in hub.PICKLED:
        try:
            models.locate(name)  # which says how to convert it
        except (ValueError, OSError) as error:
            parser.error(str(error))
    alien = _OF_TORCH if single else _OF_FILE
    if wrong := sorted(given.keys() & set(alien)):
        flags = ", ".join(f"--{one.replace('_', '-')}" for one in wrong)
        parser.error(f"{flags}: not of {'a .safetensors file' if single else 'such a model'}.")
    try:
        model = (
            _of_file(name, folder, given)
            if single
            else imported.import_named(name, folder, **given)
        )
    except (ValueError, OSError) as error:
        parser.error(str(error))
    height, width = model.input.size
    count = f"{len(model.classes)} classes" if model.classes else "no head: add one with head=zero"
    print(
        f"{chosen.folder}: {model.architecture.removeprefix(weights.IMPORTED)}, "
        f"{model.num_parameters():,} parameters, images of {height}x{width}, "
        f"{count}."
    )


def _of_file(name: str, folder: str, given: dict[str, Any]) -> Classifier:
    if "classes" in given:
        lines = files.read_lines(Path(given["classes"]))
        given["classes"] = tuple(filter(None, map(str.strip, lines)))
    model = models.load(name, **given)
    weights.export(model, folder)
    return model


def main(arguments: Sequence[str] | None = None) -> None:
    """Prints the table, or the architectures of the named families; or imports a model."""
    arguments = sys.argv[1:] if arguments is None else arguments
    if arguments[:1] == ["import"]:
        import_model(arguments[1:])
        return
    parser = argparse.ArgumentParser(prog="python -m ktjax.models", description=__doc__)
    parser.add_argument("family", nargs="*", help=f"coverage, or {', '.join(models.FAMILIES)}")
    chosen = parser.parse_args(arguments).family
    if chosen == ["coverage"]:
        found = coverage.rows(catalogue.TIMM, catalogue.IMPORTED, models.FAMILIES)
        versions = {k: catalogue.IMPORTED[k] for k in ("timm", "torch", "jax")}
        print(coverage.text(found, catalogue.TIMM["checkpoints"], versions))
        theirs = catalogue.TRANSFORMERS
        versions = {k: theirs[k] for k in ("transformers", "torch", "jax")}
        print(f"\n{coverage.text_of_transformers(theirs, hf_kinds.KINDS, versions)}")
        return
    for name in chosen:
        if name not in models.FAMILIES:
            parser.error(f"No family '{name}'. Known: {', '.join(models.FAMILIES)}.")
    if not chosen:
        print(table(catalogue.TIMM, models.FAMILIES))
    for name in chosen:
        print(architectures(catalogue.TIMM, models.FAMILIES, name))


if __name__ == "__main__":
    main()
