"""Makes a store from external answers: of another framework, a proprietary model, or an API.

`python -m ktjax.targets views` (experiment/views.py) writes a pool, a folder of the images to be
answered: pool.json and, as uint8 [N, H, W, 3], `view-00000.npy` and so on, `plain.npy` (the
training images without augmentation), `tune.npy` and `validation.npy` (not those of one party: then
pool.json says null). Image i of a file has the index i. Labels are in `labels.npy`, which `pack`
reads and the teacher need not see.

Answers are logits, or log-probabilities, as [N, C] arrays named like the images. If a model names
only its most probable classes, give all others an equal share of the rest.
"""

import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ktjax import files, paths, spelling
from ktjax.targets import rows
from ktjax.targets import store as store_lib
from ktjax.targets.store import MEASURED, PLAIN, Store, view_name
from ktjax.topk import Way

POOL = "pool.json"
LABELS = "labels"
CLASSES = "classes.txt"  # next to the answers: one name per line, in the order of their columns
_LARGEST = 1e4  # magnitude of a logit: beyond it, float16 differences underflow to nothing


def pack(
    pool: str | Path,
    answers: Mapping[str, np.ndarray],
    folder: str | Path,
    *,
    name: str,
    classes: Sequence[str],
    origin: str = "packed",
    k: int | None = None,
    ways: Sequence[Way] = ((1.0, False),),
) -> Store:
    """Checks answers, and makes a store from them.

    A store that is already there, of the same description (images, classes, name, k), is replaced.

    Args:
      pool: the folder of images that were answered.
      answers: logits [N, C] by the names of the pool's files: `view-00000` and so on, or `plain`
        instead, if the model saw the images without augmentation; `tune` and `validation` if it
        answered these. Each is read twice, one after the other: map large ones into memory.
      folder: the store's folder.
      name: the model's name.
      classes: the class of each column, by the pool's class names, in any order.
      origin: where the model comes from, in words.
      k: how many of the largest logits are kept; None: all.
      ways: the softenings for which the other classes are summed: (temperature, standardized).

    Raises:
      ValueError: answers are missing, have the wrong shape or classes, are not finite, or are
        probabilities, k is below 1, or there is a store of another description; nothing is
        written.
    """
    if k is not None and k < 1:
        raise ValueError(f"k={k}: keep at least 1 logit of each image, or all, without k.")
    pool, folder = paths.on_disk(pool, "pool"), paths.of(folder)
    description = read_pool(pool)
    images, numbered = _images(description, answers)
    order_C = _order(description["classes"], classes)
    examples = {split: description[split]["examples"] for split in _measured(description)}

    def checked(called: str) -> np.ndarray:
        wanted = examples.get(called, images["examples"])
        return _checked(called, answers[called], wanted, order_C)

    for called in answers:  # all before any is written, and none is kept: 20 views may be 10 GB
        checked(called)
    form = rows.form(len(order_C), k, tuple((float(t), bool(s)) for t, s in ways))
    label_N = _labels(pool, description, wanted=form.k is not None)
    described = {
        "format": store_lib.FORMAT,
        "model": {"name": name, "origin": origin, "weights": None},
        "images": images,
        "classes": description["classes"],
        "k": form.k,
        "ways": [list(way) for way in form.ways],
        "dtype": "float32",
        "versions": description["versions"],
        **{split: description[split] for split in MEASURED},
    }
    if (folder / store_lib.DESCRIPTION).exists():
        there = store_lib.open_store(folder).description
        store_lib.refuse(Store(folder, there), store_lib.differences(there, described))
    store = store_lib.write(folder, described)
    # What another model, or an earlier version of this one, said of other images.
    store_lib.keep_only(store, [numbered.get(called, called) for called in answers])
    for called in answers:
        logits_NxC = checked(called)
        if called in MEASURED:
            store_lib.write_rows(store, called, logits_NxC)
        else:
            kept_N = rows.to_rows(logits_NxC, label_N, form)
            store_lib.write_rows(store, numbered[called], kept_N)
    return store


def read_answers(folder: str | Path) -> tuple[dict[str, np.ndarray], tuple[str, ...]]:
    """The answers in a folder by name, and their classes; ValueError if they are missing."""
    folder = paths.on_disk(folder, "answers")
    arrays = [path for path in sorted(folder.glob("*.npy")) if not path.name.startswith(".")]
    found = {path.stem: _array(path) for path in arrays}  # not macOS's `._view-00000.npy`
    if not found:
        raise ValueError(f"'{folder}' has no answers: view-00000.npy and so on, or plain.npy.")
    if not (folder / CLASSES).is_file():
        raise ValueError(f"'{folder}' lacks {CLASSES}: the class of each column, one per line.")
    return found, tuple(files.read_lines(folder / CLASSES))


def _array(path: Path) -> np.ndarray:
    """The array in a file, mapped into memory; ValueError if there is none, or only a part."""
    try:
        array = np.load(path, mmap_mode="r", allow_pickle=False)
    except (ValueError, EOFError, zipfile.BadZipFile):  # their texts are of pickles and of mmap
        array = None
    if not isinstance(array, np.ndarray):  # or an archive of arrays, whatever its name
        raise ValueError(
            f"'{path}' is not a complete array of numbers, as numpy.save writes them: write it "
            "again."
        )
    return array


def read_pool(folder: Path) -> dict[str, Any]:
    """The content of pool.json; ValueError if it is missing or damaged."""
    try:
        return files.read_object(folder / POOL)
    except OSError:
        raise ValueError(
            f"'{folder}' is not a pool of images: `python -m ktjax.targets views` writes one."
        ) from None


def _measured(description: Mapping[str, Any]) -> list[str]:
    """The splits in MEASURED that are in the pool."""
    return [split for split in MEASURED if description[split] is not None]


def _images(
    description: Mapping[str, Any], answers: Mapping[str, np.ndarray]
) -> tuple[dict[str, Any], dict[str, str]]:
    """The images that were answered, and the names of the answers' files in the store."""
    views = {view_name(view): view_name(view) for view in range(description["views"])}
    known = [*views, PLAIN, *_measured(description)]
    if unknown := sorted(set(answers) - set(known)):
        raise ValueError(f"No images are called '{unknown[0]}'. The pool has: {', '.join(known)}.")
    asked = [called for called in answers if called not in MEASURED]
    if not asked or (PLAIN in asked and len(asked) > 1):
        raise ValueError(
            f"A store holds either views or {PLAIN}, but these answers are for "
            f"{', '.join(asked) or 'neither'}"
            + (f": delete {PLAIN}.npy, or those of the views." if asked else ".")
        )
    if asked == [PLAIN]:
        return description[PLAIN], {PLAIN: view_name(0)}
    return description["images"], views


def _order(wanted: Sequence[str], given: Sequence[str]) -> np.ndarray:
    """The column of each of the pool's classes in the answers."""
    wanted, given = list(map(spelling.composed, wanted)), list(map(spelling.composed, given))
    if len(set(given)) < len(given):
        raise ValueError("The answers have two columns for one class.")
    lacking = [name for name in wanted if name not in given]
    unknown = [name for name in given if name not in wanted]
    if lacking or unknown:
        told = [f"lack {', '.join(lacking[:5])}"] * bool(lacking)
        told += [f"have {', '.join(unknown[:5])}, which the images do not"] * bool(unknown)
        raise ValueError(f"The answers have other classes: they {' and '.join(told)}.")
    at = {name: i for i, name in enumerate(given)}
    return np.array([at[name] for name in wanted])


def _checked(called: str, answers: np.ndarray, examples: int, order_C: np.ndarray) -> np.ndarray:
    """The logits as float32 [N, C], in the order of the pool's classes."""
    shape = (examples, len(order_C))
    if np.shape(answers) != shape or not np.issubdtype(answers.dtype, np.floating):
        raise ValueError(
            f"The answers to '{called}' are {answers.dtype} {list(np.shape(answers))}, but must be "
            f"floating-point numbers {list(shape)}: one row per image, one column per class."
        )
    logits_NxC = np.asarray(answers[:, order_C], np.float32)
    bad_N = np.flatnonzero(~np.isfinite(logits_NxC).all(axis=1))
    if len(bad_N):
        raise ValueError(
            f"The answers to '{called}' are not finite for {len(bad_N)} images, the first being "
            f"{bad_N[0]}."
        )
    if np.abs(logits_NxC).max() > _LARGEST:
        raise ValueError(
            f"The answers to '{called}' go up to {np.abs(logits_NxC).max():.3g}: logits and "
            f"log-probabilities must be within {_LARGEST:g} of 0."
        )
    if what := _probabilities(logits_NxC):
        raise ValueError(f"The answers to '{called}' {what}: give logits, or log-probabilities.")
    return logits_NxC


def _probabilities(logits_NxC: np.ndarray) -> str | None:
    """What shows that these are probabilities instead; None: nothing does.

    Rounded ones, or those of the most probable classes alone, sum to any number up to 1. Logits
    that are all between 0 and 1 would make every class about as probable; those of a head of zeros
    are all 0. Nonnegative logits, as after a ReLU, do not all sum to 100.
    """
    low, high = logits_NxC.min(initial=0), logits_NxC.max(initial=0)
    if low < 0 or high == 0:
        return None
    sum_N = logits_NxC.sum(axis=1)
    if np.abs(sum_N - 1).max() < 1e-2:
        return "are probabilities"
    if high <= 1:
        return "are all between 0 and 1, as probabilities are"
    if np.abs(sum_N - 100).max() < 1:
        return "sum to 100 for each image, as probabilities in percent do"
    return None


def _labels(pool: Path, description: Mapping[str, Any], *, wanted: bool) -> np.ndarray:
    """The labels, needed if only the largest logits are kept: the label may not be among them."""
    path = pool / f"{LABELS}.npy"
    if wanted and not path.is_file():
        raise ValueError(f"'{path}' is missing: without labels all logits must be kept (k).")
    if not wanted:
        return np.full(description["images"]["examples"], -1, np.int32)
    return _array(path)
