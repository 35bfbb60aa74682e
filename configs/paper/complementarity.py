"""Figures 1 and 2: every model knows what another does not, however weak it is.

The paper: of 466 models of timm on ImageNet's validation images every ordered pair has positive
flips, images that the teacher alone gets right, of about 2 % and typically 5 to 10 %, even where
the teacher is far weaker; the classes in which they are most concentrated are more alike than
others.

  ktjax --config=paper/complementarity:models=A+B+C,data=imagenet2012 --workdir=W

and on the embedded zoo, in a minute on 2 CPU cores:

  ktjax --config=paper/complementarity --workdir=W

It gave positive flips in all 72 pairs, of 2.66 % at least and 6.61 % in the median.
"""

import ml_collections

from ktjax.configs import complementarity


def get_config(arg: str | None = None) -> ml_collections.ConfigDict:
    """Arguments: models, data, runlocal."""
    return complementarity.get_config(arg)
