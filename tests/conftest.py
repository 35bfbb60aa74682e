"""What several tests share: data sets and small pretrained models, each made once."""

import contextlib
import functools
import gc
import shutil
import subprocess
import sys

import jax
import pytest
import small_jobs
from jax.experimental.compilation_cache import compilation_cache

from ktjax import data, evaluate, models, parallel
from ktjax.analysis import predictions
from ktjax.data import pipeline
from ktjax.experiment import training
from ktjax.jobs import pretrain

# A [C] that meets a [B, C] is a mistake more often than not.
jax.config.update("jax_numpy_rank_promotion", "raise")


@pytest.fixture(scope="module", autouse=True)
def forget_compiled():
    """Thousands of compiled programs use up the memory maps of one process, and XLA crashes."""
    yield
    jax.clear_caches()
    gc.collect()


@pytest.fixture(scope="session")
def glyphs_dir(tmp_path_factory):
    """A data_dir with glyphs in it; never the user's own."""
    folder = tmp_path_factory.mktemp("data")
    data.load("glyphs", data_dir=str(folder))
    return str(folder)


@pytest.fixture(scope="session")
def validation(glyphs_dir):
    """The validation split of glyphs, decoded."""
    source = data.load("glyphs", data_dir=glyphs_dir).validation
    return pipeline.read(source, pipeline.Reading(24), name="glyphs validation")


@pytest.fixture(scope="session")
def answers(validation):
    """answers(name): what a model of the embedded zoo says of them; each is run once."""

    @functools.cache
    def of(name):
        model = models.load(name)
        predict = evaluate.make_predict(model, batch_size=500)
        logits_NxC = predict(parallel.replicate(model.variables), validation)
        return predictions.of_logits(logits_NxC, validation.label_N)

    return of


@pytest.fixture(scope="session")
def python():
    """Runs code in a fresh interpreter and returns the words of its last line."""

    def run(code):
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return done.stdout.splitlines()[-1].split()

    return run


# Jobs on a folder of generated images, see small_jobs.py.


@contextlib.contextmanager
def _compile_once(folder):
    fields = {
        "jax_compilation_cache_dir": str(folder),
        "jax_persistent_cache_min_compile_time_secs": 0.0,
        "jax_persistent_cache_min_entry_size_bytes": -1,
    }
    before = {name: getattr(jax.config, name) for name in fields}
    for values in (fields, before):
        for name, value in values.items():
            jax.config.update(name, value)
        compilation_cache.reset_cache()
        if values is fields:
            yield


@pytest.fixture(scope="session")
def compiled(tmp_path_factory):
    """Where compiled programs are kept while `compile_once` holds."""
    return tmp_path_factory.mktemp("compiled")


@pytest.fixture(scope="module")
def compile_once(compiled):
    """Jobs that are run again find what they compiled before, as processes of a user may."""
    with _compile_once(compiled):
        yield


@pytest.fixture(scope="session")
def cached(compiled):
    """The environment of processes that are to find what others compiled."""
    return {
        "JAX_COMPILATION_CACHE_DIR": str(compiled),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
    }


@pytest.fixture(scope="session")
def images(tmp_path_factory):
    """The images of four classes: 68 to train on, 8 to tune, 20 to validate."""
    return small_jobs.make_images(tmp_path_factory.mktemp("images") / "patterns")


@pytest.fixture(scope="session")
def pretrained(images, compiled, tmp_path_factory):
    """(workdir, results) of a job that has trained three models."""
    workdir = tmp_path_factory.mktemp("pretrained") / "new" / "workdir"
    with _compile_once(compiled):
        return workdir, pretrain.run(small_jobs.pretraining(images), workdir)


@pytest.fixture(scope="session")
def zoo(pretrained):
    """The exported folders, the student first."""
    return [str(pretrained[0] / "models" / name) for name in small_jobs.ARCHITECTURES]


@pytest.fixture(scope="session")
def noisy(tmp_path_factory):
    """As many images of the same classes, which are harder to tell apart."""
    return small_jobs.make_images(tmp_path_factory.mktemp("images") / "noisy", noise=120)


@pytest.fixture(scope="session")
def quartet(noisy, compiled, tmp_path_factory):
    """Folders of four models that compile fast, a student and its teachers, for `noisy`."""
    folder = tmp_path_factory.mktemp("quartet")
    names = {"tiny_mlp_narrow": ("student", "narrow"), "tiny_mlp": ("weak", "wide")}
    for seed in (0, 1):
        config = small_jobs.pretraining(noisy, names=tuple(names), seed=seed, eval_every_steps=8)
        with _compile_once(compiled):
            pretrain.run(config, folder / str(seed))
        for name, called in names.items():
            shutil.move(folder / str(seed) / "models" / name, folder / called[seed])
    return [str(folder / called) for called in ("student", "narrow", "weak", "wide")]


@pytest.fixture
def refused(tmp_path, monkeypatch):
    """refused(run, config, message): the job says so, and does nothing."""
    workdir = tmp_path / "workdir"
    for owner, name in ((evaluate, "make_predict"), (training, "make_recipe")):
        monkeypatch.setattr(owner, name, lambda *_, **__: pytest.fail("it works"))

    def check(run, config, message):
        with pytest.raises(ValueError, match=message) as refusal:
            run(config, workdir)
        assert not workdir.exists()
        return str(refusal.value)

    return check
