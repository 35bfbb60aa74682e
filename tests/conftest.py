"""What several tests share: data sets and small pretrained models, each made once."""

import contextlib
import fcntl
import functools
import gc
import shutil
import subprocess
import sys

import jax
import pytest
import small_jobs
import xla
from jax.experimental.compilation_cache import compilation_cache

from ktjax import data, evaluate, files, models, parallel
from ktjax.analysis import predictions
from ktjax.data import pipeline
from ktjax.experiment import recipes
from ktjax.jobs import pretrain
from ktjax.report import page

xla.be_quick()
# A [C] that meets a [B, C] is a mistake more often than not.
jax.config.update("jax_numpy_rank_promotion", "raise")


# The files that take longest begin first, so that what the processes of `-n 2` end with
# is short and neither waits long for the other. xdist would begin with those of the most tests.
LONGEST = (
    *("frozen_test.py", "jobs_test.py", "families_test.py", "processes_test.py"),
    *("configs_test.py", "failures_test.py", "models_test.py", "complementarity_test.py"),
    *("parallel_test.py", "devices_test.py", "zoo_test.py", "kill_test.py", "mutual_test.py"),
    *("digits_test.py", "hf_test.py", "train_test.py", "stream_test.py", "install_test.py"),
)


def pytest_collection_modifyitems(items):
    items.sort(key=lambda item: [*LONGEST, item.path.name].index(item.path.name))


@pytest.fixture(scope="module", autouse=True)
def forget_compiled():
    """Thousands of compiled programs use up the memory maps of one process, and XLA crashes."""
    yield
    jax.clear_caches()
    gc.collect()


# Where the pictures of reports are drawn; elsewhere a quarter of the time of a job would go there.
DRAWN = (
    "report_test.py",
    "jobs_test.py",
    "study_test.py",
    "complementarity_test.py",
    "configs_test.py",
)


@pytest.fixture(scope="module", autouse=True)
def pictures_are_drawn_elsewhere(request):
    """A job that is asked about other things leaves the files of its pictures empty."""

    def empty(folder, drawing, source):
        if drawing.rows(source):
            for ending in ("png", "csv"):
                files.write_whole(folder / files.FIGURES / f"{drawing.name}.{ending}", "")
        return []

    with pytest.MonkeyPatch.context() as patch:
        if request.path.name not in DRAWN:
            patch.setattr(page, "_figure", empty)
        yield


@pytest.fixture(scope="session")
def shared(tmp_path_factory, worker_id):
    """shared(name): a folder that all processes of `pytest -n` have, for one of them at a time.

    The first one fills it, and the others find what it holds.
    """
    base = tmp_path_factory.getbasetemp()
    base = base if worker_id == "master" else base.parent

    @contextlib.contextmanager
    def folder(name):
        with (base / f"{name}.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            (base / name).mkdir(exist_ok=True)
            yield base / name

    return folder


@pytest.fixture(scope="session")
def validation():
    """The validation split of glyphs, decoded."""
    source = data.load("glyphs").validation
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
def compiled(shared):
    """Where compiled programs are kept while `compile_once` holds."""
    with shared("compiled") as folder:
        return folder


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
def images(shared):
    """The images of four classes: 68 to train on, 8 to tune, 20 to validate."""
    with shared("images") as folder:
        path = folder / "patterns"
        return path if path.exists() else small_jobs.make_images(path)


@pytest.fixture(scope="session")
def pretrained(images, compiled, shared):
    """(workdir, results) of a job that has trained three models."""
    with shared("pretrained") as folder, _compile_once(compiled):
        workdir = folder / "new" / "workdir"
        return workdir, pretrain.run(small_jobs.pretraining(images), workdir)


@pytest.fixture(scope="session")
def zoo(pretrained):
    """The exported folders, the student first."""
    return [str(pretrained[0] / "models" / name) for name in small_jobs.ARCHITECTURES]


@pytest.fixture(scope="session")
def noisy(shared):
    """As many images of the same classes, which are harder to tell apart."""
    with shared("images") as folder:
        path = folder / "noisy"
        return path if path.exists() else small_jobs.make_images(path, noise=120)


@pytest.fixture(scope="session")
def quartet(noisy, compiled, shared):
    """Folders of four models that compile fast, a student and its teachers, for `noisy`."""
    called = {"student": (0, "tiny_mlp_narrow"), "narrow": (1, "tiny_mlp_narrow")}
    called |= {"weak": (0, "tiny_mlp"), "wide": (1, "tiny_mlp")}
    with shared("quartet") as folder, _compile_once(compiled):
        for seed in (0, 1):
            names = ("tiny_mlp_narrow", "tiny_mlp")
            config = small_jobs.pretraining(noisy, names=names, seed=seed, eval_every_steps=8)
            pretrain.run(config, folder / str(seed))
        for name, (seed, architecture) in called.items():
            if not (folder / name).exists():
                shutil.copytree(folder / str(seed) / "models" / architecture, folder / name)
    return [str(folder / name) for name in ("student", "narrow", "weak", "wide")]


@pytest.fixture
def refused(tmp_path, monkeypatch):
    """refused(run, config, message): the job says so, and does nothing."""
    workdir = tmp_path / "workdir"
    for owner, name in ((evaluate, "make_predict"), (recipes, "make")):
        monkeypatch.setattr(owner, name, lambda *_, **__: pytest.fail("it works"))

    def check(run, config, message):
        with pytest.raises(ValueError, match=message) as refusal:
            run(config, workdir)
        assert not workdir.exists()
        return str(refusal.value)

    return check
