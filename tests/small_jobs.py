"""Small jobs for the tests: images, configs, and what a workdir holds. Fixtures: conftest.py."""

import json
import os
import runpy
import subprocess
import sys
from pathlib import Path

import numpy as np
from PIL import Image

from ktjax import data, evaluate
from ktjax.data import pipeline
from ktjax.models.checkpoints import weights

ROOT = Path(__file__).parents[1]
CLASSES = ("checks", "columns", "corner", "rows")
ARCHITECTURES = ("tiny_mlp_narrow", "tiny_resnet_narrow", "tiny_mlp")


def make_images(folder, classes=CLASSES, per_class=24, noise=45):
    """12 x 10 pixels: a pattern for each class, in a random color, under much noise."""
    rng = np.random.default_rng(0)
    y, x = np.mgrid[:10, :12]
    patterns = ((x // 3 + y // 3) % 2, x // 3 % 2, (x < 6) & (y < 5), y // 3 % 2)
    for name, pattern in zip(classes, patterns, strict=False):
        (folder / name).mkdir(parents=True)
        for i in range(per_class):
            image = pattern[..., None] * rng.uniform(40, 160, 3) + rng.normal(
                60, noise, (10, 12, 3)
            )
            image = Image.fromarray(image.clip(0, 255).astype(np.uint8))
            image.save(folder / name / f"{i:02}.png")
    return folder


def load_config(name, arg, **fields):
    config = runpy.run_path(str(ROOT / "configs" / f"{name}.py"))["get_config"](arg)
    small = dict(image_size=12, interpolation="bicubic")
    # The views that compile fastest: a fifth of the time of a job.
    small |= dict(batch_size=16, eval_batch_size=16, log_every=2, augment="minimal")
    short = dict(total_epochs=None, eval_every_epochs=None, total_steps=8, eval_every_steps=3)
    config.update(small | short | fields)
    return config


def pretraining(images, *, names=ARCHITECTURES, **fields):
    fields = dict(augment="shift_colour") | fields
    return load_config("pretrain", f"data=folder:{images}", models=names, **fields)


def transferring(images, student, teachers, *, arg="objectives=kl_dp", mcl=None, **fields):
    """`objectives` among the fields replaces those of the arg, `mcl` its slow weights; no controls
    unless the arg names some.
    """
    given = f"student={student},teachers={'+'.join(map(str, teachers))},data=folder:{images}"
    given += ",controls="
    replaced = fields.pop("objectives", None)
    # Few steps, which are all alike.
    alike = dict(schedule="constant", warmup=0.0, clip_norm=None, export="last")
    fields = dict(total_steps=6) | alike | fields
    config = load_config("transfer", f"{given},{arg}", **fields)
    config.unlock()
    if replaced is not None:
        config.objectives = replaced
    if mcl is not None:
        config.mcl = mcl
    for entry in config.objectives.values():
        entry.learning_rate = 0.1
        if "negatives" in entry:
            entry.update(negatives=8, projection=4)
    config.lock()
    return config


# As of glyphs in configs/study.py; the others have 0.1.
RATES = {"kl": 0.01, "xe_kl": 0.01, "hinton": 0.01, "kl_dp_unsupervised": 0.03}


def studying(images, students, teachers, *, arg="objectives=kl_dp,controls=xe", **fields):
    given = f"students={'+'.join(students)},teachers={'+'.join(teachers)},data=folder:{images}"
    config = load_config("study", f"{given},{arg}", **{"total_steps": 6} | fields)
    for name, entry in config.objectives.items():
        entry.learning_rate = RATES.get(name, 0.1)
    return config


def tree(folder):
    """Everything below a folder, by name."""
    files = (path for path in sorted(folder.rglob("*")) if path.is_file())
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


def read(workdir):
    return json.loads((workdir / "results.json").read_text())


def lines(workdir):
    return [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]


def without_seconds(node):
    if isinstance(node, dict):
        return {k: without_seconds(v) for k, v in node.items() if k != "seconds"}
    return [without_seconds(v) for v in node] if isinstance(node, list) else node


def splits(images):
    """As these jobs read them."""
    return pipeline.read_splits(data.load(f"folder:{images}"), pipeline.Reading(12))


def logits_of(classifier, split):
    return evaluate.make_predict(classifier, batch_size=16)(classifier.variables, split)


def accuracy_of(classifier, images):
    split = splits(images).validation
    return evaluate.accuracy(logits_of(classifier, split), split.label_N)


class KilledError(BaseException):
    """Something that no job knows of."""


def kill_at(monkeypatch, owner, method, *, calls):
    """Lets a method work for some calls, then raises instead."""
    work, left = getattr(owner, method), iter(range(calls))

    def limited(*args, **kwargs):
        if next(left, None) is None:
            raise KilledError
        return work(*args, **kwargs)

    monkeypatch.setattr(owner, method, limited)


def check_same(found, expected):
    """Two workdirs hold the same bits, but for times."""
    metrics = [
        [{k: v for k, v in line.items() if not k.startswith("input/")} for line in lines(workdir)]
        for workdir in (found, expected)
    ]
    assert metrics[0] == metrics[1]
    assert without_seconds(read(found)) == without_seconds(read(expected))
    for path in expected.rglob(weights.WEIGHTS):
        name = path.relative_to(expected)
        assert (found / name).read_bytes() == path.read_bytes(), name


def launch(*arguments, timeout=300, **environment):
    return subprocess.run(
        [sys.executable, "-m", "ktjax.main", *arguments],
        cwd=ROOT,
        env=os.environ | {"JAX_PLATFORMS": "cpu"} | environment,
        capture_output=True,
        text=True,
        timeout=timeout,
    )
