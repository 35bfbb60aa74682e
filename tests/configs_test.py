"""Every config: loads, explains its fields, and runs as `:runlocal`."""

import importlib
import json
import re
import runpy
from pathlib import Path

import ml_collections
import pytest
from ml_collections.config_flags import config_path

from ktjax import settings
from ktjax.configs import complementarity, exchange, pretrain
from ktjax.jobs import transfer
from ktjax.settings.transfer import Transfer

CONFIGS = Path(__file__).parents[1] / "configs"
FILES = sorted(path for path in CONFIGS.rglob("*.py") if path.stem != "__init__")
TOP = sorted(CONFIGS.glob("[!_]*.py"))
WHOLE = [path for path in TOP if path.stem != "pools"]  # pools and paper/ change others
_ASSIGNMENT = re.compile(r"    config\.(\w+) = ")
_COMMENT = re.compile(r"    # ")

each = pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(CONFIGS)))
each_whole = pytest.mark.parametrize("path", WHOLE, ids=lambda p: p.name)


def get_config(path, arg=None):
    return runpy.run_path(str(path))["get_config"](arg)


def test_there_are_configs():
    assert {"pretrain.py", "transfer.py"} <= {path.name for path in FILES}


@pytest.mark.smoke
@each
def test_loads(path):
    whole, local = get_config(path), get_config(path, "runlocal")
    for config in (whole, local):
        assert isinstance(config, ml_collections.ConfigDict) and config.is_locked
        assert importlib.import_module(f"ktjax.jobs.{config.job}").run
        json.dumps(config.to_dict())  # results.json and the workdir's config.json hold it
    assert set(whole) == set(local)
    assert whole.to_dict() != local.to_dict()


@each
def test_unknown_argument_lists_the_known_ones(path):
    with pytest.raises(ValueError, match=r"'modle'. Known: .*runlocal"):
        get_config(path, "modle=tiny_vit")


@each_whole
def test_every_field_has_a_comment(path):
    """On its line, or on a line of its own above it and others that have none."""
    headed, seen, bare = False, set(), []
    for line in path.read_text().splitlines():
        headed = bool(_COMMENT.match(line)) or (headed and "  # " not in line and bool(line))
        if field := _ASSIGNMENT.match(line):
            seen.add(field[1])
            if not headed and "  # " not in line:
                bare.append(field[1])
    assert not bare
    assert seen >= set(get_config(path))


@each_whole
def test_fields_that_are_none_may_be(path):
    """And those of which a comment says what None means; of durations either is None."""
    none = {key for key, value in get_config(path).items() if value is None}
    told = set(re.findall(r"    config\.(\w+) = .*  # .*\bNone:", path.read_text()))
    assert "max_examples" in told
    for field in none | told:
        config = get_config(path)
        config_path.set_value(field, config, None)
        try:
            settings.read(config)
        except ValueError as error:  # of two durations one has to be given
            assert "one of config" in str(error), error


@pytest.mark.usefixtures("compile_once")
@pytest.mark.parametrize(
    "path",
    [  # jobs_test.py and study_test.py have small images, and quickstart.py is a transfer, too
        pytest.param(
            path,
            marks=[pytest.mark.full]
            * (path.stem in ("exchange", "pools", "scarce", "showcase", "study", "transfer")),
            id=path.name,
        )
        for path in TOP
    ],
)
def test_runlocal_runs(path, tmp_path):
    """With one of the objectives and one of the controls where there are several."""
    config = get_config(path, "runlocal")
    if len(config.get("objectives", ())) > 1:
        for field, name in (("objectives", "kl_dp"), ("controls", "xe")):
            entries = config[field]
            config[field] = {name: entries[name]} if name in entries else entries
    results = importlib.import_module(f"ktjax.jobs.{config.job}").run(config, tmp_path)
    assert results["runs"] or results["pairs"] or results["checks"]
    assert (tmp_path / "report.html").exists()


@pytest.mark.full
def test_runlocal_of_quickstart_runs_every_objective(tmp_path):
    config = get_config(CONFIGS / "quickstart.py", "runlocal")
    results = transfer.run(config, tmp_path)
    assert {row["objective"] for row in results["runs"]} == set(config.objectives)


def test_transfer_to_imagenet_is_the_papers():
    """Section 5 and the authors' code; KL in xe_kl_mcl alone is over 100 classes."""
    config = get_config(CONFIGS / "transfer.py", "data=imagenet2012,objectives=kl+xe_kl_mcl")
    kl, xe_kl_mcl = config.objectives.kl, config.objectives.xe_kl_mcl
    assert (kl.learning_rate, kl.temperature, kl.top_k) == (None, 1.0, None)
    assert (xe_kl_mcl.learning_rate, xe_kl_mcl.alpha, xe_kl_mcl.top_k) == (1e-2, 0.68, 100)
    assert set(xe_kl_mcl.flips) == {"positive", "neutral"}
    settings = Transfer.read(config)
    assert (settings.mcl["xe_kl_mcl"].tau, settings.mcl["xe_kl_mcl"].every) == (
        0.9999,
        2 * 256 // config.batch_size,
    )
    assert settings.learning_rates == (1e-4,) and settings.augment == "default"
    epoch = 128_117 // 64
    assert settings.durations(128_117) == (epoch, 20 * epoch, epoch)
    assert settings.train_fraction == 0.1
    assert (settings.schedule, settings.warmup, settings.clip_norm) == ("constant", 0.0, None)
    assert settings.export == "last"
    others = Transfer.read(get_config(CONFIGS / "transfer.py", "data=folder:PATH"))
    assert (others.schedule, others.warmup, others.clip_norm) == ("cosine", 0.05, 1.0)
    assert others.export == "no_regret"  # it never harms
    joint = get_config(CONFIGS / "transfer.py", "objectives=mutual,strategy=mutual")
    assert Transfer.read(joint).export == "last"


@pytest.mark.parametrize("name", ["success", "unsupervised", "top_k", "softening"])
def test_the_paper_says_its_protocol(name):
    """On ImageNet; on the embedded zoo the learning rates are those that were chosen there."""
    path = CONFIGS / "paper" / f"{name}.py"
    arg = "students=timm/resnet50.a1_in1k,teachers=timm/resnet18.a1_in1k,"
    arg += "data=folder:POOL" if name == "unsupervised" else "data=imagenet2012"
    config, ours = get_config(path, arg), get_config(path)
    assert (config.schedule, config.batch_norm) == ("constant", "train")
    rates = {label: entry.learning_rate for label, entry in config.objectives.items()}
    assert rates.pop("xe_kl_mcl", 1e-2) == 1e-2
    assert set(rates.values()) == {1e-4}
    assert ours.schedule == "cosine" and ours.objectives.values()[0].learning_rate >= 0.01


@pytest.mark.parametrize("name", ["success", "top_k", "softening"])
def test_experiments_of_the_paper_have_their_own_objectives(name):
    with pytest.raises(ValueError, match=r"experiment has its own.*--config=study:objectives="):
        get_config(CONFIGS / "paper" / f"{name}.py", "data=glyphs,objectives=kl_dp")


def test_a_folder_is_a_checkpoint_however_it_is_spelled(tmp_path, monkeypatch):
    """But an architecture of that name is what the job takes."""
    monkeypatch.chdir(tmp_path)
    for name in ("mine", "tiny_mlp"):
        (tmp_path / name).mkdir()
    rate = {
        model: pretrain.get_config(f"model={model},train=head").learning_rate
        for model in ("mine", "./mine", str(tmp_path / "mine"), "tiny_mlp", "other")
    }
    assert rate["mine"] == rate["./mine"] == rate[str(tmp_path / "mine")]
    assert rate["tiny_mlp"] == rate["other"] != rate["mine"]


def test_a_part_of_the_zoo_is_compared_locally_or_what_is_named():
    assert len(complementarity.get_config("runlocal").models) == 3
    named = "models=a+b+c+d"
    assert complementarity.get_config(f"{named},runlocal").models == ("a", "b", "c", "d")
    assert complementarity.get_config(named).models == ("a", "b", "c", "d")
    assert complementarity.get_config().models == complementarity.ZOO


def test_an_exchange_on_ones_own_pool_finds_its_rate():
    of_glyphs, own = exchange.get_config(), exchange.get_config("data=folder:POOL")
    assert of_glyphs.objectives.kl_dp_unsupervised.learning_rate == 0.01
    assert own.objectives.kl_dp_unsupervised.learning_rate is None
    assert (of_glyphs.export, own.export) == ("last", "no_regret")
    assert (of_glyphs.image_size, own.image_size) == (24, 224)  # whatever the parties' models
