"""transformers' image processors in timm's terms: the pixels are those of its own classes."""

import importlib
import json

import numpy as np
import pytest
from PIL import Image

from ktjax.classifier import InputSpec
from ktjax.data import decode
from ktjax.models.checkpoints import processors, weights

IMAGE = np.random.default_rng(0).integers(0, 256, (6, 8, 3), np.uint8)
IMAGE = np.asarray(Image.fromarray(IMAGE).resize((640, 420), Image.Resampling.BICUBIC))
MODULES = {
    "ConvNext": "convnext",
    "EfficientNet": "efficientnet",
    "MobileNetV1": "mobilenet_v1",
    "PoolFormer": "poolformer",
}


def spec_of(folder, config=None, **spec):
    if spec:
        (folder / processors.PREPROCESSOR).write_text(json.dumps(spec))
    found = processors.read(folder / processors.PREPROCESSOR, config or {})
    weights.check_cfg(found, str(folder))
    return weights.input_spec({"pretrained_cfg": found})


def pixels(spec):
    image = decode.eval_crop(
        IMAGE,
        size=spec.size,
        crop_pct=spec.crop_pct,
        interpolation=spec.interpolation,
        crop_mode=spec.crop_mode,
    )
    return (image / 255 - spec.mean) / spec.std


def theirs(kind, **spec):
    module = MODULES.get(kind, kind.lower())
    where = f"transformers.models.{module}.image_processing_pil_{module}"
    processor = getattr(importlib.import_module(where), f"{kind}ImageProcessorPil")(**spec)
    found = processor(Image.fromarray(IMAGE), return_tensors="np")["pixel_values"][0]
    return found.transpose(1, 2, 0)


@pytest.mark.parametrize(
    ("kind", "spec"),
    [
        ("Beit", {}),
        ("Beit", dict(size={"height": 80, "width": 100}, resample=2)),
        ("Bit", {}),
        ("Bit", dict(size={"shortest_edge": 256})),
        ("CLIP", dict(size=126, crop_size=112)),
        ("ConvNext", {}),
        ("ConvNext", dict(size=384)),
        ("ConvNext", dict(size=112, crop_pct=0.9)),
        ("DeiT", {}),
        ("DeiT", dict(size=64, crop_size=48, image_mean=[0.1, 0.2, 0.3], image_std=[0.4] * 3)),
        ("EfficientNet", dict(size=120)),
        ("EfficientNet", dict(size=120, include_top=False, rescale_offset=True)),
        ("EfficientNet", dict(size=120, include_top=False, rescale_factor=1 / 127.5)),
        ("Levit", {}),
        ("MobileNetV1", {}),
        ("PoolFormer", {}),
        ("Pvt", dict(size=[60, 80])),
        ("Siglip", {}),
        ("ViT", {}),
        ("ViT", dict(size=64, do_normalize=False)),
        ("ViT", dict(size=64, do_rescale=False, image_mean=[120, 110, 100], image_std=[60] * 3)),
    ],
)
def test_pixels_are_those_of_transformers_own_class(kind, spec, tmp_path):
    for name in (f"{kind}ImageProcessor", f"{kind}ImageProcessorFast"):
        ours = pixels(spec_of(tmp_path, image_processor_type=name, **spec))
    np.testing.assert_allclose(ours, theirs(kind, **spec), atol=1e-5)


@pytest.mark.parametrize(
    ("spec", "size", "crop_pct", "mode"),
    [
        (dict(size=24), (24, 24), 1.0, "squash"),
        (dict(size={"height": 20, "width": 24}), (20, 24), 1.0, "squash"),
        (dict(size=[20, 24]), (20, 24), 1.0, "squash"),
        (dict(size=[24]), (24, 24), 1.0, "squash"),
        (dict(size={"longest_edge": 24}), (24, 24), 1.0, "border"),
        (dict(size={"shortest_edge": 24, "longest_edge": 99}), (24, 24), 1.0, "center"),
        (dict(size=256, crop_size=224, do_center_crop=True), (224, 224), 0.875, "squash"),
    ],
)
def test_sizes_of_all_kinds(spec, size, crop_pct, mode, tmp_path):
    found = spec_of(tmp_path, feature_extractor_type="ViTFeatureExtractor", **spec)
    assert (found.size, found.crop_pct, found.crop_mode) == (size, crop_pct, mode)


@pytest.mark.parametrize("model", ["resnet", "regnet", "convnext"])
def test_without_its_class_a_file_is_read_as_the_models(model, tmp_path):
    found = spec_of(tmp_path, {"model_type": model}, size=224, crop_pct=0.95)
    assert (found.size, found.crop_pct, found.crop_mode) == ((224, 224), 0.95, "center")


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        ({"model_type": "vit", "image_size": 96}, InputSpec((96, 96), crop_mode="squash")),
        ({"model_type": "deit", "image_size": 112}, InputSpec((112, 112), crop_pct=0.875)),
        ({"model_type": "resnet"}, InputSpec((224, 224), crop_pct=0.875)),
        ({"model_type": "dinov2", "image_size": 518}, InputSpec((518, 518))),
    ],
)
def test_without_a_file_it_is_what_the_models_class_does(config, expected, tmp_path, caplog):
    found = spec_of(tmp_path, config)
    assert (found.size, found.crop_pct) == (expected.size, expected.crop_pct)
    squashes = config["model_type"] in ("vit", "deit")
    assert found.crop_mode == ("squash" if squashes else "center")
    filters = "bilinear" if config["model_type"] == "vit" else "bicubic"
    assert found.interpolation == filters
    assert "images are read with the defaults of" in caplog.text


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        (dict(resample=1), r"resample=1; ktjax supports .*3: 'bicubic'"),
        (dict(do_pad=True), "has do_pad, which ktjax cannot do"),
        (dict(do_flip_channel_order=True), "has do_flip_channel_order, which ktjax cannot do"),
        (dict(do_resize=False), "has do_resize=false"),
        (dict(size={"max_height": 9, "max_width": 9}), "has the size .*max_height"),
        (dict(size="large"), "has the size large: ktjax supports a number"),
        (dict(size=0.5), "has the size 0.5"),
        (dict(size=64, crop_size=96, do_center_crop=True), "crops 96x96 pixels from 64x64"),
    ],
)
def test_what_timms_terms_have_not_is_refused_by_name(spec, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        spec_of(tmp_path, image_processor_type="ViTImageProcessor", **spec)


def test_an_unknown_class_is_refused_with_those_that_are_known(tmp_path):
    with pytest.raises(ValueError, match="does not know.*ViTImageProcessor"):
        spec_of(tmp_path, {"model_type": "imagegpt"}, image_processor_type="ImageGPTImageProcessor")


@pytest.mark.parametrize(
    "spec",
    [
        InputSpec((64, 64)),
        InputSpec((64, 64), crop_pct=0.9, interpolation="bilinear"),
        InputSpec((64, 64), crop_mode="squash"),
        InputSpec((64, 48), crop_mode="squash"),
        InputSpec((224, 224), crop_pct=0.875, crop_mode="squash"),
        InputSpec((384, 384), crop_pct=0.95),
    ],
)
def test_there_and_back(spec, tmp_path):
    found = spec_of(tmp_path, **processors.to_json(spec))
    np.testing.assert_array_equal(pixels(found), pixels(spec))


def test_no_class_adds_borders():
    with pytest.raises(ValueError, match="crop_mode border"):
        processors.to_json(InputSpec((64, 64), crop_mode="border"))


def test_every_share_leads_back_to_its_size():
    for size in range(1, 600):
        for crop in range(1, size + 1, 7):
            assert int(crop / processors._share(crop, size)) == size
