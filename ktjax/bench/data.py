"""Images per second from JPEG files to uint8 batches, compared to torch's DataLoader and tf.data.

The files are like ImageNet's: 500 x 375 pixels, quality 90, some 80 kB. All three read, decode,
crop and resize them (antialiased), and stack batches, on the same cores: for evaluation the shorter
side to 256 and the center of 224, for training a random crop resized to 224, both bicubic.
"""

import functools
import importlib
import io
import math
import os
import tempfile
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from ktjax import progress
from ktjax.batches import eval_batches
from ktjax.data import pipeline, sources
from ktjax.experiment import workdir

_MACHINE = ("platform", "cpu_cores", "python", "jax", "numpy")
_HEIGHT, _WIDTH = 375, 500
_SIZE, _CROP_PCT = 224, 0.875
_SCALE, _RATIO = (0.08, 1.0), (3 / 4, 4 / 3)
TRANSFORMS = ("eval", "train")

# pass(files) -> batches of uint8, every file once
Pass = Callable[[], Iterable[Any]]


def run(*, images: int, photos: int, batch_size: int, rounds: int, seed: int = 0) -> dict[str, Any]:
    """Measures the loaders in turn, `rounds` times after an untimed pass.

    Args:
      images: files in a pass.
      photos: how many of them are different; the others are copies.
      batch_size: images.
      rounds: timed passes of each loader.
      seed: for the content of the images.

    Returns:
      For each transform and loader the images per second, for ours also per core, and how many
      times faster ours was than each other loader. All are from the fastest pass, since other work
      on the machine can only slow it down. A loader that cannot be imported has the reason instead.
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    found: dict[str, Any] = {"images": images, "batch_size": batch_size, "cores": cores}
    with tempfile.TemporaryDirectory() as folder:
        files = _write(Path(folder), images, min(photos, images), seed)
        found["kilobytes_mean"] = sum(os.path.getsize(file) for file in files) / images / 1e3
        for transform in TRANSFORMS:
            passes: dict[str, Pass] = {}
            for name, build in {"ktjax": _ktjax, "torch": _torch, "tf_data": _tf_data}.items():
                try:
                    passes[name] = build(files, transform, batch_size, cores)
                # torchvision raises RuntimeError if it does not match torch.
                except (ImportError, RuntimeError) as error:
                    found[f"{transform}_{name}"] = f"not measured: {error}"
            seconds = _time(passes, images, rounds, transform)
            for name, spent in seconds.items():
                found[f"{transform}_{name}_images_per_s"] = images / spent
            found[f"{transform}_ktjax_images_per_s_and_core"] = images / seconds["ktjax"] / cores
            for name in passes.keys() - {"ktjax"}:
                found[f"{transform}_times_{name}"] = seconds[name] / seconds["ktjax"]
    environment = workdir.environment()
    return found | {name: environment[name] for name in _MACHINE}


def photo(rng: np.random.Generator, *, height: int, width: int) -> np.ndarray:
    """A synthetic image with the statistics of a photograph, uint8 [height, width, 3].

    Its amplitudes fall as 1 / frequency, its channels are similar, and objects with edges overlap.
    """
    down, right = np.fft.fftfreq(height)[:, None], np.fft.rfftfreq(width)[None]
    frequency = np.hypot(down, right)
    frequency[0, 0] = np.inf  # no mean
    noise = rng.normal(size=(3, height, width))
    spectrum = np.fft.rfft2(0.75 * noise[:1] + 0.35 * noise) / frequency
    texture = np.fft.irfft2(spectrum, s=(height, width))
    image = np.moveaxis(120 + 45 * texture / texture.std(), 0, 2)
    for _ in range(30):
        radii = np.exp(rng.uniform(math.log(0.02), math.log(0.25), 2)) * height
        reach = math.ceil(radii.max())
        y, x = rng.integers(height), rng.integers(width)
        part = np.s_[max(0, y - reach) : y + reach, max(0, x - reach) : x + reach]
        at_y, at_x = np.ogrid[: image[part].shape[0], : image[part].shape[1]]
        at_y, at_x = at_y - min(y, reach), at_x - min(x, reach)
        turn = rng.uniform(0, math.pi)
        along = at_y * math.cos(turn) + at_x * math.sin(turn)
        across = at_x * math.cos(turn) - at_y * math.sin(turn)
        inside = (along / radii[0]) ** 2 + (across / radii[1]) ** 2 < 1
        image[part][inside] *= rng.uniform(0.3, 0.9)
        image[part][inside] += rng.uniform(-40, 90, 3)
    return image.clip(0, 255).astype(np.uint8)


def _write(folder: Path, images: int, photos: int, seed: int) -> list[str]:
    """Writes JPEG files, and returns their names."""
    rng = np.random.default_rng(seed)
    encoded = []
    for _ in progress.bar(range(photos), desc="make photos", leave=False):
        buffer = io.BytesIO()
        image = Image.fromarray(photo(rng, height=_HEIGHT, width=_WIDTH))
        image.save(buffer, "JPEG", quality=90)
        encoded.append(buffer.getvalue())
    files = [folder / f"{i:06}.jpg" for i in range(images)]
    for i, file in enumerate(files):
        file.write_bytes(encoded[i % photos])
    return [str(file) for file in files]


def _time(passes: dict[str, Pass], images: int, rounds: int, transform: str) -> dict[str, float]:
    """Seconds of each loader's fastest pass; the loaders take turns."""
    seconds = dict.fromkeys(passes, math.inf)
    for number in progress.bar(range(rounds + 1), desc=transform, leave=False):
        for name, start_pass in passes.items():
            start = time.perf_counter()
            shapes = [np.shape(batch) for batch in start_pass()]
            spent = time.perf_counter() - start
            if sum(shape[0] for shape in shapes) != images:
                raise RuntimeError(f"{name} gave batches of {shapes}, not {images} images.")
            if number:  # the first pass starts processes, and fills caches
                seconds[name] = min(seconds[name], spent)
    return seconds


def _ktjax(files: list[str], transform: str, batch_size: int, cores: int) -> Pass:
    source = sources.Source(
        label_N=np.zeros(len(files), np.int32),
        read=lambda i: Path(files[i]).read_bytes(),
        where=lambda i: files[i],
    )
    reading = pipeline.Reading(
        size=_SIZE,
        crop_pct=_CROP_PCT,
        crop_scale=_SCALE if transform == "train" else None,
        threads=cores,
    )
    stream = pipeline.Stream(source, reading)
    view = 0 if transform == "train" else None

    def batches() -> Iterable[np.ndarray]:
        for batch in eval_batches(stream, batch_size=batch_size, view=view):
            yield batch["image"][: batch["mask"].sum()]  # padding is at the end

    return batches


class _Files:
    """A data set for torch's DataLoader."""

    def __init__(self, files: list[str], transform: Callable[[Image.Image], Any]):
        self.files = files
        self.transform = transform

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, i: int) -> Any:
        return self.transform(Image.open(self.files[i]).convert("RGB"))


def _torch(files: list[str], transform: str, batch_size: int, cores: int) -> Pass:
    data = importlib.import_module("torch.utils.data")
    transforms = importlib.import_module("torchvision.transforms")
    bicubic = transforms.InterpolationMode.BICUBIC
    if transform == "train":
        crop = [transforms.RandomResizedCrop(_SIZE, _SCALE, _RATIO, bicubic)]
    else:
        shorter = math.floor(_SIZE / _CROP_PCT)
        crop = [transforms.Resize(shorter, bicubic), transforms.CenterCrop(_SIZE)]
    loader = data.DataLoader(
        _Files(files, transforms.Compose([*crop, transforms.PILToTensor()])),
        batch_size,
        num_workers=cores,
        persistent_workers=True,
        multiprocessing_context="spawn",  # threads of JAX and Grain do not survive a fork
    )
    return lambda: loader


def _tf_data(files: list[str], transform: str, batch_size: int, cores: int) -> Pass:
    tf = importlib.import_module("tensorflow")
    resize = functools.partial(tf.image.resize, method="bicubic", antialias=True)

    def whole(image: Any) -> Any:
        return tf.cast(tf.clip_by_value(tf.round(image), 0, 255), tf.uint8)

    def for_training(file: Any) -> Any:
        encoded = tf.io.read_file(file)
        corner, size, _ = tf.image.sample_distorted_bounding_box(
            tf.image.extract_jpeg_shape(encoded),
            bounding_boxes=tf.zeros([1, 0, 4]),
            area_range=_SCALE,
            aspect_ratio_range=_RATIO,
            max_attempts=10,
            use_image_if_no_bounding_boxes=True,
        )
        window = tf.concat([corner[:2], size[:2]], axis=0)
        part = tf.image.decode_and_crop_jpeg(encoded, window, channels=3)
        return whole(resize(part, [_SIZE, _SIZE]))

    def for_evaluation(file: Any) -> Any:
        image = tf.image.decode_jpeg(tf.io.read_file(file), channels=3)
        shape = tf.cast(tf.shape(image)[:2], tf.float32)
        shorter = math.floor(_SIZE / _CROP_PCT)
        resized = tf.cast(shape * shorter / tf.reduce_min(shape), tf.int32)
        image = whole(resize(image, resized))
        return tf.image.resize_with_crop_or_pad(image, _SIZE, _SIZE)

    dataset = tf.data.Dataset.from_tensor_slices(files)
    dataset = dataset.map(for_training if transform == "train" else for_evaluation, cores)
    dataset = dataset.batch(batch_size).prefetch(tf.data.AUTOTUNE)
    options = tf.data.Options()
    options.threading.private_threadpool_size = cores
    return dataset.with_options(options).as_numpy_iterator
