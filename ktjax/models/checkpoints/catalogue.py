"""What timm says about its architectures, and how its models compare once they are imported.

Written by tests/goldens/make_timm.py and sweep_timm.py.
"""

import json
from pathlib import Path

# architectures: family, parameters, classes, input (size, mean, std, interpolation, crop_pct),
# whether the weights are for images of one size, what the first and the last layer are called, and
# the tags of the ImageNet-1k checkpoints; checkpoints: how many of these all of timm has.
TIMM = json.loads((Path(__file__).parent / "timm.json").read_text(encoding="utf-8"))
# files: of each file of timm's its ImageNet-1k checkpoints; and of those that ktjax has no family
# of, what was compared with torch.
IMPORTED = json.loads((Path(__file__).parent / "timm_imported.json").read_text(encoding="utf-8"))
