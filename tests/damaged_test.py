"""JSON and weights that somebody, or a disk, has changed: told in a sentence, or harmless."""

import json
import random
import shutil

import hf_test
import pytest
from small_jobs import KilledError, kill_at, pretraining

from ktjax import data, files, loop, models
from ktjax.checkpoint import Checkpoints
from ktjax.jobs import pretrain
from ktjax.models.checkpoints import hf, weights

pytestmark = pytest.mark.usefixtures("compile_once")

VALUES = (None, 5, -1, "x", "", [], {}, [[]], {"a": None}, True, "\ud800", [None])


class WorksError(Exception):
    """A job got as far as to work."""


def texts(path):
    """What else a JSON file could hold: other things, less, and each field of another type."""
    whole = path.read_bytes()
    yield from (b"", b"[", b"[]", b"null", b"{}", b"5", b'"x"', b"\xff\xfe", b"[" * 100_000)
    yield from (whole[: len(whole) // 2], whole[:-5] + b"\xff")
    content = json.loads(whole)
    for name in content:
        yield json.dumps({k: v for k, v in content.items() if k != name}).encode()
        for value in VALUES:
            yield json.dumps(content | {name: value}).encode()


def check(path, changed, attempt):
    """How often it was told; whatever else happens is a failure."""
    whole, told = path.read_bytes(), 0
    for content in changed:
        path.write_bytes(content)
        try:
            attempt()
        except (ValueError, OSError) as error:
            told += 1
            assert type(error) in (ValueError, OSError), content[:200]
            lines = str(error).splitlines()
            assert 0 < len(lines) < 25 and all(0 < len(line) < 2000 for line in lines), error
        except WorksError:
            pass
    path.write_bytes(whole)
    return told


def works(*_, **__):
    raise WorksError


@pytest.fixture
def finished(pretrained, images, tmp_path):
    return pretraining(images), shutil.copytree(pretrained[0], tmp_path / "workdir")


@pytest.mark.parametrize("name", [files.CONFIG, files.RESULTS])
def test_of_a_finished_job(name, finished, monkeypatch):
    config, workdir = finished
    monkeypatch.setattr(data, "load", works)
    # Some fields of results.json are only shown.
    least = 500 if name == files.CONFIG else 90
    changed = texts(workdir / name)
    assert check(workdir / name, changed, lambda: pretrain.run(config, workdir)) > least


@pytest.fixture
def unfinished(images, tmp_path):
    config = pretraining(images, names=("tiny_mlp_narrow",))
    with pytest.MonkeyPatch.context() as patch:
        kill_at(patch, Checkpoints, "save", calls=1)
        with pytest.raises(KilledError):
            pretrain.run(config, tmp_path)
    return config, tmp_path


def test_of_a_job_that_goes_on(unfinished, monkeypatch):
    config, workdir = unfinished
    monkeypatch.setattr(loop, "run", works)
    for name in (files.DATA, files.METRICS):
        path = workdir / name
        changed = list(texts(path) if name == files.DATA else [b"5", b"[]", b"\xff", b"{}"])
        told = check(path, changed, lambda: pretrain.run(config, workdir))
        # What models began with is left out, and metrics that nobody can read go.
        assert told > 0.9 * len(changed) if name == files.DATA else told == 0


def test_of_a_model(quartet, tmp_path):
    folder = shutil.copytree(quartet[0], tmp_path / "model")
    path = folder / "config.json"
    changed, content = list(texts(path)), json.loads(path.read_bytes())
    for name, value in [(n, v) for n in content["pretrained_cfg"] for v in VALUES]:
        other = {**content, "pretrained_cfg": content["pretrained_cfg"] | {name: value}}
        changed.append(json.dumps(other).encode())
    told = check(path, changed, lambda: models.load(str(folder)))
    assert told > 0.6 * len(changed)
    path, rng = folder / "model.safetensors", random.Random(0)
    whole = path.read_bytes()
    changed = [b"", b"x", whole[:8], whole[:-1], whole + b"x", b"\xff" * len(whole)]
    changed.append((2**60).to_bytes(8, "little") + whole[8:])
    for at in rng.sample(range(1000), 30):
        changed.append(whole[:at] + bytes([whole[at] ^ (1 << rng.randrange(8))]) + whole[at + 1 :])
    assert check(path, changed, lambda: models.load(str(folder))) > 25


@pytest.mark.parametrize(("name", "least"), [("config.json", 0.5), (hf.PREPROCESSOR, 0.45)])
def test_of_a_model_of_transformers(name, least, tmp_path):
    """Which tells little of what it does not expect, and in many ways: every fourth is tried."""
    for file in ("config.json", hf.PREPROCESSOR):
        shutil.copy(hf_test.GOLDENS / "vit" / file, tmp_path)
    weights.safetensors_numpy.save_file(hf_test.entries("vit"), tmp_path / weights.WEIGHTS)
    changed = list(texts(tmp_path / name))[::4]
    told = check(tmp_path / name, changed, lambda: models.load(str(tmp_path)))
    assert told > least * len(changed)
