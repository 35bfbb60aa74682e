"""Makes ktjax/models/imagenet_larger.json: where ImageNet-1k's classes are in larger sets.

  python tests/goldens/make_imagenet_lists.py

pip install timm, whose lists these are. Of 21,841 classes there are two orders, so none is kept.
"""

import json
from pathlib import Path

import timm

LISTS = ("imagenet21k_goog", "imagenet12k", "imagenet21k_miil", "imagenet21k_miil_w21")


def main() -> None:
    """Writes the file: number of classes -> place of each class of ImageNet-1k; -1: it lacks."""
    info = Path(timm.__file__).parent / "data" / "_info"
    wanted = (info / "imagenet_synsets.txt").read_text().split()
    found = {}
    for name in LISTS:
        synsets = (info / f"{name}_synsets.txt").read_text().split()
        places = {synset: place for place, synset in enumerate(synsets)}
        found[str(len(synsets))] = [places.get(synset, -1) for synset in wanted]
    lines = ",\n".join(f'"{count}":{json.dumps(found[count])}' for count in found)
    models = Path(__file__).parents[2] / "ktjax" / "models"
    (models / "imagenet_larger.json").write_text(f"{{{lines}}}\n".replace(", ", ","))


if __name__ == "__main__":
    main()
