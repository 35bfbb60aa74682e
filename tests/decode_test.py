"""Decoding gives Pillow's bits, the transforms those of timm and torchvision."""

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import ExifTags, Image, ImageOps

from ktjax.classifier import CROP_MODES, InputSpec
from ktjax.data import decode

GOLDEN = np.load(Path(__file__).parent / "goldens" / "transforms.npz")
EVAL = [name for name in GOLDEN if name.startswith("eval/")]
SHAPES = [name.removeprefix("jpeg/") for name in GOLDEN if name.startswith("jpeg/")]


def make_image(height, width, seed=0):
    """Smooth colors with an edge, as PIL."""
    rng = np.random.default_rng(seed)
    small = Image.fromarray(rng.integers(0, 256, (5, 7, 3), np.uint8))
    image = np.array(small.resize((width, height), Image.Resampling.BICUBIC))
    image[height // 3 : height // 2, width // 4 : width // 2] = (250, 20, 60)
    return Image.fromarray(image)


def encode(image, form="JPEG", **options):
    encoded = io.BytesIO()
    image.save(encoded, form, **options)
    return encoded.getvalue()


def golden_jpeg(shape):
    return GOLDEN[f"jpeg/{shape}"].tobytes()


@pytest.mark.parametrize(
    "options",
    [
        {"quality": 90},
        {"quality": 40, "subsampling": "4:4:4"},
        {"quality": 75, "subsampling": "4:2:2"},
        {"quality": 90, "progressive": True},
        {"quality": 90, "restart_marker_rows": 1},
    ],
)
@pytest.mark.parametrize("mode", ["RGB", "L"])
def test_jpegs_have_the_bits_of_pillow(options, mode):
    encoded = encode(make_image(63, 98).convert(mode), **options)
    expected = np.asarray(Image.open(io.BytesIO(encoded)).convert("RGB"))
    image = decode.decode(encoded)
    assert image.dtype == np.uint8 and image.shape == (63, 98, 3)
    np.testing.assert_array_equal(image, expected)


@pytest.mark.parametrize("form", ["JPEG", "PNG"])
def test_an_image_that_pillow_has_opened_may_end_too_early(form):
    image = Image.open(io.BytesIO(encode(make_image(60, 80), form)[:700]))
    with pytest.raises(decode.DecodeError, match="truncated"):
        decode.of_pillow(image)


@pytest.mark.parametrize("dtype", [np.int32, np.float32])
def test_pixels_whose_white_nobody_knows_are_refused(dtype):
    image = Image.fromarray(np.linspace(0, 1, 12).reshape(3, 4).astype(dtype))
    with pytest.raises(decode.DecodeError, match="its pixels have 32 bits"):
        decode.decode(encode(image, "TIFF"))


def test_other_formats_and_modes():
    image = make_image(20, 30)
    rgb = np.asarray(image)
    np.testing.assert_array_equal(decode.decode(encode(image, "PNG")), rgb)
    np.testing.assert_array_equal(decode.decode(encode(image, "BMP")), rgb)
    gray = decode.decode(encode(image.convert("L"), "PNG"))
    np.testing.assert_array_equal(gray, np.asarray(image.convert("L"))[..., None].repeat(3, 2))
    palette = image.convert("P", palette=Image.Palette.ADAPTIVE, colors=16)
    expected = np.asarray(palette.convert("RGB"))
    np.testing.assert_array_equal(decode.decode(encode(palette, "PNG")), expected)
    np.testing.assert_array_equal(decode.decode(encode(palette, "PNG", transparency=0)), expected)
    clear = image.copy()
    clear.putalpha(Image.new("L", image.size, 100))
    np.testing.assert_array_equal(decode.decode(encode(clear, "PNG")), rgb)
    one_bit = decode.decode(encode(image.convert("1"), "PNG"))
    assert set(np.unique(one_bit)) == {0, 255}


def test_formats_that_run_programs_are_refused():
    for kind in ("EPS", "PPM", "PDF"):
        with pytest.raises(decode.DecodeError, match="unknown format"):
            decode.decode(encode(make_image(8, 8), kind))


def test_cmyk_is_close_to_the_colors_it_was_made_of():
    image = make_image(40, 56)
    encoded = encode(image.convert("CMYK"), quality=95)
    decoded = decode.decode(encoded)
    np.testing.assert_array_equal(
        decoded, np.asarray(Image.open(io.BytesIO(encoded)).convert("RGB"))
    )
    assert np.abs(decoded.astype(int) - np.asarray(image)).mean() < 4


def test_sixteen_bits_are_scaled():
    values = np.arange(0, 65536, 16, dtype=np.uint16).reshape(64, 64)
    decoded = decode.decode(encode(Image.fromarray(values), "PNG"))
    np.testing.assert_array_equal(decoded, (values >> 8)[..., None].repeat(3, axis=2))


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize(
    ("encoded", "reason"),
    [
        (b"", "empty"),
        (b"<html>no such image</html>", "unknown format"),
        (encode(make_image(60, 80))[:700], "truncated"),
        (encode(make_image(60, 80), "PNG")[:700], "truncated"),
        (b"\xff\xd8" + bytes(100), "unknown format"),
    ],
)
@pytest.mark.parametrize("draw", [False, True])
def test_what_does_not_decode_says_why(encoded, reason, draw):
    with pytest.raises(decode.DecodeError, match=reason) as error:
        if draw:
            generator = np.random.default_rng(0)
            decode.random_resized_crop(
                encoded, size=(8, 8), generator=generator, interpolation="bilinear"
            )
        else:
            decode.decode(encoded)
    assert not str(error.value).endswith(".")


def test_damage_raises_nothing_but_decode_errors():
    rng = np.random.default_rng(0)
    whole = [encode(make_image(40, 60)), encode(make_image(40, 60), "PNG")]
    failed = 0
    for i in range(400):
        damaged = bytearray(whole[i % 2])
        for at in rng.integers(2, len(damaged), 3):
            damaged[at] = rng.integers(256)
        try:
            assert decode.decode(bytes(damaged)).shape[2] == 3
        except decode.DecodeError:
            failed += 1
    assert 50 < failed < 400


def test_sizes_that_no_memory_holds_are_refused(monkeypatch):
    encoded = bytearray(encode(make_image(40, 60)))
    at = encoded.index(b"\xff\xc0") + 5
    encoded[at : at + 4] = b"\xff\xdc\xff\xdc"
    monkeypatch.setattr(decode.simplejpeg, "decode_jpeg", lambda *_, **__: pytest.fail("tries it"))
    with pytest.raises(decode.DecodeError, match="decompression bomb"):
        decode.decode(bytes(encoded))


@pytest.mark.smoke
@pytest.mark.parametrize("name", EVAL)
def test_eval_crop_has_the_bits_of_timm(name):
    _, shape, size, crop_pct, interpolation = name.split("/")
    image = decode.eval_crop(
        decode.decode(golden_jpeg(shape)),
        size=tuple(int(side) for side in size.split("x")),
        crop_pct=float(crop_pct),
        interpolation=interpolation,
    )
    np.testing.assert_array_equal(image, GOLDEN[name])


@pytest.mark.parametrize("name", [name for name in GOLDEN if name.startswith(("squash", "border"))])
def test_eval_crop_squashes_and_frames_as_timm_does(name):
    mode, shape, size = name.split("/")
    fill = InputSpec((1, 1), mean=(0.1, 0.5, 0.9)).fill
    image = decode.eval_crop(
        decode.decode(golden_jpeg(shape)),
        size=tuple(int(side) for side in size.split("x")),
        crop_pct=0.9,
        interpolation="bilinear",
        crop_mode=mode,
        fill=fill,
    )
    np.testing.assert_array_equal(image, GOLDEN[name])


def test_other_crop_modes_are_refused():
    assert decode.CROP_MODES == CROP_MODES
    options = {"size": (4, 4), "crop_pct": 1.0, "interpolation": "nearest"}
    with pytest.raises(ValueError, match="No crop_mode 'middle'. Known: center, squash, border."):
        decode.eval_crop(np.zeros((9, 9, 3), np.uint8), crop_mode="middle", **options)


@pytest.mark.parametrize("interpolation", ["nearest", "bilinear", "bicubic"])
@pytest.mark.parametrize("shape", [(375, 500), (500, 375), (300, 300), (180, 600), (224, 224)])
def test_eval_crop_is_a_crop_of_the_whole_resized(shape, interpolation):
    image = make_image(*shape)
    size, crop_pct = (192, 160), 0.9
    ratio = min(shape[0] / 213, shape[1] / 177)
    height, width = (round(side / ratio) for side in shape)
    resample = getattr(Image.Resampling, interpolation.upper())
    whole = np.asarray(image.resize((width, height), resample))
    top, left = round((height - 192) / 2), round((width - 160) / 2)
    cropped = decode.eval_crop(
        np.asarray(image), size=size, crop_pct=crop_pct, interpolation=interpolation
    )
    np.testing.assert_array_equal(cropped, whole[top : top + 192, left : left + 160])


@pytest.mark.parametrize("crop_pct", [0.0, 1.01, float("nan")])
def test_eval_crop_refuses_shares_that_are_none(crop_pct):
    with pytest.raises(ValueError, match="share of the image"):
        decode.eval_crop(
            np.zeros((9, 9, 3), np.uint8), size=(4, 4), crop_pct=crop_pct, interpolation="nearest"
        )


def test_other_interpolations_are_refused_with_the_nearest():
    options = {"size": (4, 4), "interpolation": "bicubik"}
    with pytest.raises(ValueError, match="No interpolation 'bicubik'. Known: bicubic."):
        decode.eval_crop(np.zeros((9, 9, 3), np.uint8), crop_pct=1.0, **options)
    with pytest.raises(ValueError, match="Known: bicubic."):
        decode.random_resized_crop(
            encode(make_image(9, 9)), generator=np.random.default_rng(0), **options
        )


@pytest.mark.parametrize("interpolation", ["nearest", "bilinear", "bicubic"])
def test_random_crops_have_the_bits_of_torchvision(interpolation, monkeypatch):
    monkeypatch.setattr(decode, "draw_crop", lambda *_, **__: (7, 11, 33, 47))
    image = decode.random_resized_crop(
        golden_jpeg(SHAPES[0]),
        size=(24, 32),
        generator=np.random.default_rng(0),
        interpolation=interpolation,
    )
    np.testing.assert_array_equal(image, GOLDEN[f"crop/{interpolation}"])


@pytest.mark.parametrize("shape", SHAPES)
def test_random_crops_are_drawn_as_torchvision_draws(shape):
    height, width = (int(side) for side in shape.split("x"))
    generator = np.random.default_rng(0)
    draws = [decode.draw_crop(height, width, generator=generator) for _ in range(20_000)]
    assert all(top + h <= height and left + w <= width for top, left, h, w in draws)
    levels = np.linspace(0, 1, 201)
    for ours, golden in zip(np.transpose(draws), GOLDEN[f"draws/{shape}"].T, strict=True):
        # How many draws are at or below each quantile: whole pixels have ties, so a quantile of
        # one stands for a range of levels.
        below = [(ours < at).mean() for at in golden]
        upto = [(ours <= at).mean() for at in golden]
        assert (below - levels).max() < 0.02 and (levels - upto).max() < 0.02


def test_the_same_generator_draws_the_same_crop():
    def crop(*key):
        generator = np.random.Generator(np.random.Philox(key=key))
        return decode.random_resized_crop(
            golden_jpeg(SHAPES[0]), size=(16, 16), generator=generator, interpolation="bicubic"
        )

    np.testing.assert_array_equal(crop(1, 2), crop(1, 2))
    assert (crop(1, 2) != crop(1, 3)).any()


def test_large_jpegs_are_decoded_smaller(monkeypatch):
    image = make_image(1201, 1603)
    encoded = encode(image, quality=90)
    decoded_at = []
    decode_jpeg = decode.simplejpeg.decode_jpeg

    def spy(*args, **kwargs):
        decoded = decode_jpeg(*args, **kwargs)
        decoded_at.append(decoded.shape)
        return decoded

    monkeypatch.setattr(decode.simplejpeg, "decode_jpeg", spy)
    crop = (101, 203, 1000, 1400)
    monkeypatch.setattr(decode, "draw_crop", lambda *_, **__: crop)
    expected = np.asarray(image)[101:1101, 203:1603]
    for side, shape in {
        600: (1201, 1603),
        200: (601, 802),
        100: (301, 401),
        32: (151, 201),
    }.items():
        small = decode.random_resized_crop(
            encoded,
            size=(side, side),
            generator=np.random.default_rng(0),
            interpolation="bicubic",
        )
        whole = Image.fromarray(expected).resize((side, side), Image.Resampling.BICUBIC)
        assert np.abs(small.astype(int) - np.asarray(whole)).mean() < 0.6
        assert decoded_at.pop()[:2] == shape


def lying(orientation, form="JPEG", **options):
    """A photograph whose EXIF says how it lies."""
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    return encode(make_image(33, 50), form, exif=exif, **options)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize(
    ("form", "options"),
    [
        ("JPEG", {"quality": 95}),
        ("PNG", {}),
        ("WEBP", {"lossless": True}),
        ("TIFF", {}),  # Pillow turns it, asked or not
        ("TIFF", {"compression": "tiff_lzw"}),
    ],
)
def test_exif_turns_images_only_where_that_is_asked_for(form, options, orientation):
    encoded = lying(orientation, form, **options)
    image = Image.open(io.BytesIO(encoded))
    assert decode.orientation(encoded) == (1 if form == "TIFF" else orientation)
    np.testing.assert_array_equal(decode.decode(encoded), np.asarray(image))
    upright = np.asarray(ImageOps.exif_transpose(image))
    assert upright.shape[:2] == ((33, 50) if orientation < 5 else (50, 33))
    np.testing.assert_array_equal(decode.decode(encoded, upright=True), upright)
    opened = decode.of_pillow(reopened := Image.open(io.BytesIO(encoded)))
    turned = decode.turned(opened, decode.orientation_of(reopened))
    np.testing.assert_array_equal(turned, upright)
    drawn = [
        decode.random_resized_crop(
            of, size=(9, 9), generator=np.random.default_rng(3), interpolation="bilinear", **how
        )
        for of, how in ((encoded, {"upright": True}), (encode(Image.fromarray(upright), "PNG"), {}))
    ]
    np.testing.assert_array_equal(*drawn)


@pytest.mark.parametrize("encoded", [b"", b"no image", encode(make_image(5, 5)), lying(9)])
def test_without_a_known_orientation_it_is_upright(encoded):
    assert decode.orientation(encoded) == 1
