"""Figures 1 and 2: every model knows something another does not, however weak it is.

The paper: for 466 timm models on the ImageNet validation images, every ordered pair has positive
flips (images that only the teacher gets right) on about 2 % and typically 5 to 10 % of them, even
if the teacher is far weaker; the classes in which they are most concentrated are more alike than
others.

  ktjax --config=paper/complementarity:models=A+B+C,data=imagenet2012 --workdir=W

and on the embedded zoo, in a minute on 2 CPU cores:

  ktjax --config=paper/complementarity --workdir=W

Result: positive flips in all 72 pairs, at least 2.66 %, median 6.61 %.
"""

import ml_collections

from ktjax.configs import complementarity


def get_config(arg: str | None = None) -> ml_collections.ConfigDict:
    """Arguments: models, data, runlocal."""
    return complementarity.get_config(arg)
