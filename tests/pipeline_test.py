"""Decoding and the order of batches."""

import io
import itertools

import hypothesis
import numpy as np
import pytest
from hypothesis import strategies as st
from PIL import Image

from ktjax.batches import eval_batches
from ktjax.data import pipeline
from ktjax.data.sources import Source

RED, BLUE = (255, 0, 0), (0, 0, 255)


def encode(image, kind):
    buffer = io.BytesIO()
    image.save(buffer, kind)
    return buffer.getvalue()


def decode(image, kind="png", size=24):
    source = source_of([encode(image, kind)])
    return pipeline.Stream(source, pipeline.Reading(size)).take(np.array([0]))[0]


KINDS = [(mode, "png") for mode in ("1", "L", "LA", "P", "RGB", "RGBA")]
KINDS += [(mode, "jpeg") for mode in ("L", "RGB", "CMYK")]


@pytest.mark.parametrize(("mode", "kind"), KINDS)
@pytest.mark.parametrize("shape", [(24, 24), (100, 30), (30, 100), (5, 7), (1, 50)])
def test_decode_any_mode_and_size(mode, kind, shape):
    image = decode(Image.new("RGB", shape, "white").convert(mode), kind)
    assert (image.shape, image.dtype) == ((24, 24, 3), np.uint8)
    assert image.min() > 250


@pytest.mark.smoke
def test_decode_keeps_the_pixels_of_the_right_size():
    pixels = np.random.default_rng(0).integers(0, 256, (24, 24, 3), np.uint8)
    np.testing.assert_array_equal(decode(Image.fromarray(pixels)), pixels)


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "P"])
def test_decode_keeps_colors_in_order(mode):
    assert (decode(Image.new("RGB", (40, 30), RED).convert(mode)) == RED).all()


@pytest.mark.parametrize("upright", [False, True])
def test_decode_takes_the_centre_of_the_longer_side(upright):
    image = Image.new("RGB", (90, 30), BLUE)
    image.paste(RED, (30, 0, 60, 30))
    image = image.transpose(Image.Transpose.ROTATE_90) if upright else image
    inner = decode(image)[2:-2, 2:-2].astype(int)
    assert np.abs(inner - RED).max() < 8


def test_decode_antialiases():
    stripes = np.zeros((72, 72, 3), np.uint8)
    stripes[:, ::2] = 255
    assert np.ptp(decode(Image.fromarray(stripes)).astype(int)) < 60


def source_of(files):
    return Source(
        label_N=np.arange(len(files), dtype=np.int32),
        read=lambda i: files[i],
        where=lambda i: f"folder/{i}.png",
    )


GOOD = encode(Image.new("RGB", (40, 30), RED), "png")


@pytest.mark.parametrize(
    "broken",
    [b"", b"GIF, honestly", GOOD[:-30], GOOD[:20], encode(Image.new("L", (64, 64)), "jpeg")[:-90]],
)
def test_a_file_that_does_not_decode_is_named(broken):
    with pytest.raises(ValueError, match=r"Image folder/2\.png does not decode: "):
        pipeline.read(source_of([GOOD, GOOD, broken, GOOD]), pipeline.Reading(24), name="s")


def test_read_keeps_order_and_labels():
    files = [encode(Image.new("RGB", (24, 24), (i, 0, 0)), "png") for i in range(50)]
    images = pipeline.read(source_of(files), pipeline.Reading(24), name="split")
    assert len(images) == 50
    assert images.image_NxHxWx3[:, 3, 4, 0].tolist() == images.label_N.tolist() == list(range(50))


def images_of(count):
    """Images that hold their own number."""
    number_N = np.arange(count)
    image_NxHxWx3 = np.zeros((count, 2, 2, 3), np.uint8)
    image_NxHxWx3[..., 0], image_NxHxWx3[..., 1] = (
        (number_N // 256)[:, None, None],
        (number_N % 256)[:, None, None],
    )
    return pipeline.Images(image_NxHxWx3, (number_N % 7).astype(np.int32))


def stream(count, *, steps, seed=0, first_step=0, batch_size=10):
    batches = pipeline.train_batches(
        images_of(count), batch_size=batch_size, seed=seed, first_step=first_step
    )
    return list(itertools.islice(batches, steps))


def check_batch(batch, batch_size):
    assert {k: (v.dtype.name, v.shape) for k, v in batch.items()} == {
        "image": ("uint8", (batch_size, 2, 2, 3)),
        "label": ("int32", (batch_size,)),
        "index": ("int32", (batch_size,)),
        "mask": ("bool", (batch_size,)),
    }
    assert batch["label"].tolist() == (batch["index"] % 7).tolist()
    pixel = batch["image"][:, 1, 1].astype(int)
    assert (pixel[:, 0] * 256 + pixel[:, 1]).tolist() == batch["index"].tolist()


@pytest.mark.smoke
def test_batches_are_what_the_design_says():
    for batch in stream(35, steps=4):
        check_batch(batch, 10)
        assert batch["mask"].all()
    for batch in eval_batches(images_of(35), batch_size=10):
        check_batch(batch, 10)


@pytest.mark.parametrize("count", [30, 37])
def test_an_epoch_sees_every_index_at_most_once(count):
    batches = stream(count, steps=9)
    for epoch in range(3):
        index = np.concatenate([b["index"] for b in batches[3 * epoch : 3 * epoch + 3]])
        assert len(index) == len(set(index.tolist())) == 30
        assert index.min() >= 0
        assert index.max() < count


def test_what_an_epoch_leaves_out_comes_in_another():
    seen = np.concatenate([b["index"] for b in stream(37, steps=30)])
    assert set(seen.tolist()) == set(range(37))


def test_epochs_and_seeds_differ_and_are_shuffled():
    first, second = stream(100, steps=20)[::10]
    other = stream(100, steps=1, seed=1)[0]
    orders = [b["index"].tolist() for b in (first, second, other)]
    assert orders[0] != orders[1] != orders[2] != orders[0]
    assert all(order != sorted(order) for order in orders)


@pytest.mark.parametrize("first_step", [0, 1, 3, 7])
def test_the_stream_goes_on_bit_for_bit(first_step):
    whole = stream(37, steps=12)
    rest = stream(37, steps=12 - first_step, first_step=first_step)
    for a, b in zip(whole[first_step:], rest, strict=True):
        assert a.keys() == b.keys()
        for key in a:
            np.testing.assert_array_equal(a[key], b[key], strict=True)


@hypothesis.given(st.integers(1, 60), st.integers(1, 70))
@hypothesis.example(60, 20)
@hypothesis.example(61, 20)
def test_evaluation_sees_every_index_once_under_the_mask(count, batch_size):
    batches = list(eval_batches(images_of(count), batch_size=batch_size))
    assert len(batches) == -(-count // batch_size)
    for batch in batches:
        check_batch(batch, batch_size)
    index = np.concatenate([b["index"] for b in batches])
    mask = np.concatenate([b["mask"] for b in batches])
    assert index[mask].tolist() == list(range(count))
    assert mask[:count].all()  # so that the predictions of the split are the first ones
