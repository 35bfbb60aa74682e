"""What timm says about its architectures, and how its models compare once they are imported.

Likewise of transformers. Written by make_timm.py, sweep_timm.py and sweep_transformers.py of
tests/goldens.
"""

import json
from pathlib import Path
from typing import Any


def _read(name: str) -> Any:
    return json.loads((Path(__file__).parent / name).read_text(encoding="utf-8"))


# architectures: family, parameters, classes, input (size, mean, std, interpolation, crop_pct),
# whether the weights are for images of one size, what the first and the last layer are called, and
# the tags of the ImageNet-1k checkpoints; checkpoints: how many of these all of timm has.
TIMM = _read("timm.json")
# files: of each file of timm's its ImageNet-1k checkpoints; and of those that ktjax has no family
# of, what was compared with torch.
IMPORTED = _read("timm_imported.json")
# files: of each of transformers' image classifiers, and of some with an option after a dash, what
# was compared with torch of a tiny one; why it is refused; or why it is none (apart).
TRANSFORMERS = _read("transformers_imported.json")
