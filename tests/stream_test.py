"""Splits that are decoded for every batch: the same bits in any order, for any process, again."""

import io
import itertools
import multiprocessing
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ktjax.batches import ahead, eval_batches
from ktjax.data import pipeline
from ktjax.data.sources import Source

COUNT, SIZE = 37, 8
CROPPED = pipeline.Reading(SIZE, crop_scale=(0.1, 1.0))
WHOLE = pipeline.Reading(SIZE, crop_pct=0.8)


def _files():
    rng = np.random.default_rng(0)
    for i in range(COUNT):
        buffer = io.BytesIO()
        pixels = rng.integers(0, 256, (20 + i % 5, 24 - i % 3, 3), np.uint8)
        Image.fromarray(pixels).save(buffer, ("jpeg", "png")[i % 2])
        yield buffer.getvalue()


FILES = tuple(_files())


def source(files=FILES):
    label_N = (np.arange(len(files)) % 5).astype(np.int32)
    return Source(label_N, lambda i: files[i], lambda i: f"file {i}")


def train(images, *, steps, **options):
    options = dict(batch_size=10, seed=1, first_step=0) | options
    batches = pipeline.train_batches(images, **options)
    try:
        return list(itertools.islice(batches, steps))
    finally:
        batches.close()


def check_same(found, expected):
    for a, b in zip(found, expected, strict=True):
        assert a.keys() == b.keys()
        for name in a:
            np.testing.assert_array_equal(a[name], b[name], strict=True)


def joined(parts):
    """The batches of which several processes made the rows."""
    return [
        {name: np.concatenate([part[name] for part in batch]) for name in batch[0]}
        for batch in zip(*parts, strict=True)
    ]


SPLITS = {
    "memory": pipeline.read(source(), WHOLE, name="split"),
    "whole": pipeline.Stream(source(), WHOLE),
    "cropped": pipeline.Stream(source(), CROPPED),
}
each = pytest.mark.parametrize("images", SPLITS.values(), ids=SPLITS)


@each
def test_epochs_see_views_in_turn(images):
    """Of two views the third epoch sees the first, in an order of its own."""

    def pixels(batches):
        return {
            int(index): image
            for batch in batches
            for index, image in zip(batch["index"], batch["image"], strict=True)
        }

    steps = COUNT // 10
    found = train(images, steps=3 * steps, views=2)
    first, second, third = (found[i * steps : (i + 1) * steps] for i in range(3))
    assert not np.array_equal(first[0]["index"], third[0]["index"])
    a, b, c = map(pixels, (first, second, third))
    for index in a.keys() & c.keys():
        np.testing.assert_array_equal(a[index], c[index])
    cropped = images is SPLITS["cropped"]
    assert all(np.array_equal(a[i], b[i]) != cropped for i in a.keys() & b.keys())
    check_same(found[: 2 * steps], train(images, steps=2 * steps))


@each
@pytest.mark.parametrize("processes", [1, 2, 3])
@pytest.mark.parametrize("batch_size", [12, 18])
def test_processes_make_the_rows_of_one_batch(images, processes, batch_size):
    """Neither batch size divides the 37 images."""
    rows = np.arange(batch_size).reshape(processes, -1)
    whole = train(images, steps=5, batch_size=batch_size)
    check_same(joined([train(images, steps=5, batch_size=batch_size, rows=r) for r in rows]), whole)
    evaluated = [list(eval_batches(images, batch_size=batch_size, rows=r)) for r in rows]
    batches = joined(evaluated)
    check_same(batches, list(eval_batches(images, batch_size=batch_size)))
    mask = np.concatenate([batch["mask"] for batch in batches])
    index = np.concatenate([batch["index"] for batch in batches])
    assert index[mask].tolist() == list(range(COUNT))


@each
@pytest.mark.parametrize("first_step", [1, 2, 4, 7])
def test_what_is_resumed_within_an_epoch_goes_on_bit_for_bit(images, first_step):
    """An epoch has 3 steps."""
    whole = train(images, steps=9)
    check_same(train(images, steps=9 - first_step, first_step=first_step), whole[first_step:])


def test_a_few_batches_are_made_ahead_and_none_after_the_end():
    begun, made = [], []
    numbers = (begun.append(number) or number for number in range(100))
    batches = ahead(lambda number: made.append(number) or {"number": number}, numbers)
    assert [next(batches)["number"] for _ in range(3)] == [0, 1, 2]
    assert begun == list(range(7))
    batches.close()  # waits for what is under way
    assert set(range(3)) <= set(made) <= set(range(7))
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("batches")]


@pytest.mark.smoke
def test_streamed_and_kept_images_are_the_same():
    check_same(train(SPLITS["whole"], steps=7), train(SPLITS["memory"], steps=7))
    batches = (list(eval_batches(SPLITS[k], batch_size=8)) for k in ("whole", "memory"))
    check_same(*batches)


def views(batch_size, *, epochs=2, seed=1):
    """(view, index) -> image."""
    steps = COUNT // batch_size
    batches = train(SPLITS["cropped"], steps=epochs * steps, batch_size=batch_size, seed=seed)
    return {
        (step // steps, index): image
        for step, batch in enumerate(batches)
        for index, image in zip(batch["index"].tolist(), batch["image"], strict=True)
    }


def test_a_view_depends_on_seed_view_and_index_alone():
    found, others = views(10), views(6)
    common = found.keys() & others.keys()
    assert len(common) > 40
    for key in common:
        np.testing.assert_array_equal(found[key], others[key])
    again = {key: image for key, image in found.items() if (1 - key[0], key[1]) in found}
    assert all((image != found[1 - view, i]).any() for (view, i), image in again.items())
    other_seed = views(10, seed=2)
    common = found.keys() & other_seed.keys()
    assert all((found[key] != other_seed[key]).any() for key in common)


def test_a_later_pass_sees_the_views_of_training():
    """As stored targets do."""
    trained = views(10)
    for view in (0, 1):
        for batch in eval_batches(SPLITS["cropped"], batch_size=8, view=view, seed=1):
            for index, image in zip(batch["index"].tolist(), batch["image"], strict=True):
                if (view, index) in trained:
                    np.testing.assert_array_equal(image, trained[view, index])
    still = next(eval_batches(SPLITS["cropped"], batch_size=8))["image"]
    assert (still[0] != trained.get((0, 0), trained.get((1, 0)))).any()


def test_worker_processes_make_the_same_batches():
    """With names in what they raise, and what is cut off padded, too."""
    cut = tuple(file[: len(file) * 4 // 5] if i % 3 else file for i, file in enumerate(FILES))
    padded = CROPPED._replace(pad=True)
    good = train(pipeline.Stream(source(cut), padded), steps=3)
    steps = next(step for step, batch in enumerate(good) if 20 in batch["index"])
    bad = tuple(b"junk" if i == 20 else file for i, file in enumerate(cut))
    images = pipeline.Stream(source(bad), padded._replace(processes=1, threads=1))
    batches = pipeline.train_batches(images, batch_size=10, seed=1, first_step=0)
    check_same(itertools.islice(batches, steps), good[:steps])
    with pytest.raises(ValueError, match="Image file 20 does not decode: "):
        next(batches)
    batches.close()


def test_a_worker_process_that_is_killed_is_told_of():
    images = pipeline.Stream(source(), CROPPED._replace(processes=1, threads=1))
    batches = pipeline.train_batches(images, batch_size=10, seed=1, first_step=0)
    next(batches)
    (worker,) = multiprocessing.active_children()
    worker.kill()
    with pytest.raises(ChildProcessError, match=r"config.decode_processes\) was killed"):
        for _ in range(20):  # more than are made ahead
            next(batches)
    assert not multiprocessing.active_children()


_USER = """
import multiprocessing
import stream_test
from ktjax.data import pipeline

if __name__ == "__main__":
    reading = stream_test.CROPPED._replace(processes=1, threads=1)
    images = pipeline.Stream(stream_test.source(), reading)
    batches = pipeline.train_batches(images, batch_size=10, seed=1, first_step=0)
    next(batches)
    (worker,) = multiprocessing.active_children()
    print(worker.pid, flush=True)
    input()
    for _ in range(20):  # more than are made ahead
        next(batches)
    print("went on", flush=True)
    input()
"""


def test_worker_processes_end_with_their_parent_and_not_before(tmp_path):
    """Ctrl-C reaches all processes: the parent saves first, and that may take batches."""
    (tmp_path / "user.py").write_text(_USER)
    tests = Path(__file__).parent
    job = subprocess.Popen(
        [sys.executable, str(tmp_path / "user.py")],
        env=os.environ | {"PYTHONPATH": f"{tests}{os.pathsep}{tests.parent}"},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    worker = int(job.stdout.readline())
    try:
        for number in (signal.SIGINT, signal.SIGTERM):
            os.kill(worker, number)
        job.stdin.write("\n")
        job.stdin.flush()
        assert job.stdout.readline() == "went on\n"
        job.kill()
        job.communicate(timeout=30)  # ends when nobody is left who could print
    except BaseException:
        os.kill(worker, signal.SIGKILL)
        job.kill()
        raise


def test_a_bad_image_is_named_when_it_comes():
    bad = tuple(b"" if i == 20 else file for i, file in enumerate(FILES))
    images = pipeline.Stream(source(bad), CROPPED)
    with pytest.raises(ValueError, match="Image file 20 does not decode: "):
        train(images, steps=5)
    with pytest.raises(ValueError, match="Image file 20 does not decode: "):
        list(eval_batches(images, batch_size=8))


def test_bad_images_can_be_left_out():
    bad = tuple(b"junk" if i in (3, 20) else file for i, file in enumerate(FILES))
    good_N, wrong = pipeline.decodable(source(bad), threads=2, name="split")
    assert good_N.tolist() == [i for i in range(COUNT) if i not in (3, 20)]
    assert [sentence[:14] for sentence in wrong] == ["Image file 3 d", "Image file 20 "]
    assert len(pipeline.read(source(bad).select(good_N), WHOLE, name="split")) == COUNT - 2


@pytest.mark.parametrize(
    ("reading", "kind"),
    [
        (WHOLE, pipeline.Images),
        (WHOLE._replace(cache_gb=COUNT * SIZE**2 * 3 / 2**30), pipeline.Images),
        (WHOLE._replace(cache_gb=(COUNT * SIZE**2 * 3 - 1) / 2**30), pipeline.Stream),
        (CROPPED, pipeline.Stream),
    ],
    ids=["small", "just fits", "too large", "cropped"],
)
def test_small_splits_are_kept(reading, kind):
    assert type(pipeline.open_split(source(), reading, name="split")) is kind
