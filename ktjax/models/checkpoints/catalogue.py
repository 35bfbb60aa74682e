"""What timm says about its architectures, and how its models compare once they are imported.

Likewise for transformers. Written by make_timm.py, sweep_timm.py and sweep_transformers.py in
tests/goldens.
"""

import json
from pathlib import Path
from typing import Any


def _read(name: str) -> Any:
    return json.loads((Path(__file__).parent / name).read_text(encoding="utf-8"))


# architectures: family, parameters, classes, input (size, mean, std, interpolation, crop_pct),
# whether the weights are for images of one size, the names of the first and the last layer, and the
# tags of the ImageNet-1k checkpoints; checkpoints: how many of these timm has in all.
TIMM = _read("timm.json")
# files: for each file of timm's its ImageNet-1k checkpoints and, if ktjax has no such family, how
# it compares with torch.
IMPORTED = _read("timm_imported.json")
# files: for each of transformers' image classifiers, some with an option after a dash, how a tiny
# one compares with torch; why it is refused; or why it is not a classifier (apart).
TRANSFORMERS = _read("transformers_imported.json")
