"""Configs become records: field by field the same, every fault told at once, nothing changes."""

import runpy
from pathlib import Path
from typing import get_args

import ml_collections
import pydantic
import pytest

from ktjax import augment, objectives, optim, parallel, settings
from ktjax.data import resize, robustness
from ktjax.jobs import JOBS
from ktjax.jobs.transfer import plan
from ktjax.settings import data, objective
from ktjax.settings.complementarity import Complementarity
from ktjax.settings.convergence import Convergence
from ktjax.settings.pretrain import Pretrain
from ktjax.settings.run import Run
from ktjax.settings.study import OF_GLYPHS, Study
from ktjax.settings.transfer import OTHERWISE, Transfer

CONFIGS = Path(__file__).parents[1] / "configs"
RECORDS = {
    "transfer": Transfer,
    "pretrain": Pretrain,
    "complementarity": Complementarity,
    "convergence": Convergence,
    "study": Study,
}

ENTRIES = {
    get_args(entry.model_fields["objective"].annotation)[0]: entry
    for entry in get_args(get_args(objective.Objective)[0])
}


def get_config(name, arg=None):
    return runpy.run_path(str(CONFIGS / f"{name}.py"))["get_config"](arg)


@pytest.mark.parametrize("job", JOBS)
def test_every_job_has_a_record(job):
    assert type(settings.read(get_config(job))) is RECORDS[job]


@pytest.mark.smoke
@pytest.mark.parametrize("path", sorted(CONFIGS.rglob("*.py")), ids=lambda path: path.stem)
def test_config_files_and_records_have_the_same_fields(path):
    if path.name == "__init__.py":
        return
    for arg in (None, "runlocal"):
        config = runpy.run_path(str(path))["get_config"](arg)
        settings = RECORDS[config.job].read(config)
        assert set(settings.to_json()) == set(config) == set(RECORDS[config.job].model_fields)
        for name, value in settings.to_json().items():
            given = config.to_dict()[name]
            given = list(given) if isinstance(given, tuple) else given
            follow = (*data.following(config.data), "learning_rates", "objectives", "mcl")
            open_ones = (*OTHERWISE, *OF_GLYPHS, "students", "teachers", "export")
            if name not in follow and not (name in open_ones and given is None):
                assert value == given, name


def literal(record, field):
    """The choices of a field."""
    return set(get_args(record.model_fields[field].annotation))


def test_choices_are_those_of_the_tables():
    assert literal(Run, "optimizer") == set(optim.OPTIMIZERS)
    assert literal(Run, "schedule") == set(optim.SCHEDULES)
    assert literal(Run, "parallel") == set(parallel.LAYOUTS)
    assert set(get_args(data.Augment)) == set(augment.RECIPES)
    assert set(get_args(data.Interpolation)) == set(resize.INTERPOLATIONS)
    assert set(get_args(data.Robustness)) == set(robustness.SETS)
    assert literal(Transfer, "strategy") == set(plan.STRATEGIES)
    assert literal(Transfer, "order") == set(plan.ORDERS)


def test_an_objective_has_the_options_of_its_builder():
    assert set(ENTRIES) == set(objectives.OBJECTIVES)
    for name, entry in ENTRIES.items():
        options = set(entry.model_fields) - {"objective", "learning_rate"}
        assert options == objectives.options_of(name), name


def test_a_control_has_the_options_of_its_objective_and_no_rate():
    for control in get_args(get_args(objective.Control)[0]):
        (name,) = get_args(control.model_fields["objective"].annotation)
        assert set(control.model_fields) == set(ENTRIES[name].model_fields) - {"learning_rate"}
        for option in set(control.model_fields) - {"objective"}:  # with the same bounds
            assert repr(control.model_fields[option]) == repr(ENTRIES[name].model_fields[option])


def test_nested_fields_have_nearest_ones_too():
    config = get_config("transfer")
    wrong = dict(config.objectives.kl_dp, temprature=1.0)
    (fault,) = faults_of(config, objectives={"kl_dp": wrong})
    assert fault.startswith("config.objectives.kl_dp has no field 'temprature'. Nearest: temperat")


def test_faults_of_controls():
    xe = dict(objective="xe", label_smoothing=0.0)
    config = get_config("transfer")
    (fault,) = faults_of(config, controls={"a": xe | dict(learning_rate=0.1)})
    assert fault.startswith("config.controls.a has no field 'learning_rate'. Nearest: ")
    (fault,) = faults_of(config, controls={"a": xe | dict(objective="kl")})
    known = "xe, self, xe_self, self_pool, self_corrected"
    assert fault == f"config.controls.a.objective='kl' is not known. Known: {known}."
    (fault,) = faults_of(config, controls={"a/b": xe})
    assert "'a/b' names files" in fault
    with pytest.raises(ValueError, match="config.controls='kl' is not known. Known: xe, xe_self"):
        get_config("transfer", "controls=xe+kl")
    assert get_config("transfer", "controls=").controls.to_dict() == {}


def test_robustness_sets_are_only_for_jobs_that_report_them():
    (fault,) = faults_of(get_config("convergence"), robustness=("imagenet_a",))
    assert fault.startswith("The config has no field 'robustness'.")


def faults_of(config, **fields):
    with pytest.raises(ValueError) as error:
        RECORDS[config.job].read(config.to_dict() | fields)
    return str(error.value).splitlines()


def test_all_faults_are_told_at_once():
    found = faults_of(
        get_config("transfer", "objectives=kl+crd"),
        optimizer="sdg",
        batch_size=0,
        log_every=True,
        minival=1.5,
        seeds=(1, "2"),
        teacher="glyphs/tiny_vit",
        data_dir="",
    )
    assert len(found) == 7
    assert "config.optimizer='sdg' is not known. Known: sgd, adamw." in found
    assert "config.batch_size=0 must be 1 or more." in found
    assert "config.log_every=True must be a whole number." in found
    assert "config.minival=1.5 must be below 1." in found
    assert "config.seeds.1='2' must be a whole number." in found
    assert "config.data_dir='' must be a name." in found
    assert any("no field 'teacher'. Nearest: teachers, " in fault for fault in found)


def test_a_wrong_entry_is_not_missing_too():
    faults = faults_of(get_config("transfer"), learning_rates=(-1.0,))
    assert faults == ["config.learning_rates.0=-1.0 must be above 0."]


def test_what_results_do_not_depend_on_may_change():
    config = get_config("transfer")
    one = Transfer.read(config).identity()
    with config.unlocked():
        config.update(decode_threads=2, decode_processes=1)
    assert Transfer.read(config).identity() == one


@pytest.mark.parametrize("value", [float("nan"), float("inf"), "0.1", None, True, (0.1,)])
def test_a_number_is_a_finite_number(value):
    (fault,) = faults_of(get_config("pretrain"), learning_rate=value)
    assert fault.startswith(f"config.learning_rate={value!r} must be a")


@pytest.mark.parametrize("value", ["a photo", "{} and {}", ""])
def test_a_template_has_one_place_for_a_name(value):
    (fault,) = faults_of(get_config("transfer"), templates=("a photo of a {}.", value))
    wanted = "a text with one {} in it, for a name." if value else "a name."
    assert fault == f"config.templates.1={value!r} must be {wanted}"
    (fault,) = faults_of(get_config("complementarity"), clip_template=value)
    assert fault == f"config.clip_template={value!r} must be {wanted}"
    (fault,) = faults_of(get_config("pretrain"), templates=())
    assert fault == "config.templates has 0 entries, but must have 1 or more."


def test_faults_of_several_fields():
    (fault,) = faults_of(get_config("pretrain"), crop_scale=(0.9, 0.1))
    assert "must be the smallest and largest fraction" in fault
    (fault,) = faults_of(get_config("pretrain"), total_steps=5)
    assert "one of config.total_steps=5 and config.total_epochs=80.0" in fault
    (fault,) = faults_of(get_config("transfer"), seeds=(1, 1))
    assert "must be different" in fault


def test_a_field_of_the_config_is_missing():
    config = get_config("complementarity")
    config.unlock()
    del config.seed
    with pytest.raises(ValueError, match="^config lacks the field 'seed'.$"):
        Complementarity.read(config)


def test_lists_are_tuples_and_nothing_changes():
    config = get_config("transfer", "objectives=kl_dp")
    settings = Transfer.read(ml_collections.ConfigDict(config.to_dict() | {"seeds": [1, 2]}))
    assert settings.seeds == (1, 2)
    with pytest.raises(pydantic.ValidationError):
        settings.seeds = (3,)
    with pytest.raises(TypeError):
        settings.objectives["more"] = settings.objectives["kl_dp"]
    with pytest.raises(pydantic.ValidationError):
        settings.objectives["kl_dp"].temperature = 2.0


@pytest.mark.parametrize("name", ["transfer", "pretrain"])
@pytest.mark.parametrize("source", ["imagenet2012", "glyphs", "folder:PATH", "caltech256"])
def test_what_follows_from_the_data_follows_a_field_as_the_argument(name, source):
    by_field = get_config(name)
    by_field.data = source
    by_argument = get_config(name, f"data={source}")
    assert RECORDS[name].read(by_field) == RECORDS[name].read(by_argument)


def test_what_follows_from_the_data():
    def of(source, **fields):
        config = get_config("transfer", f"data={source}")
        config.update(fields)
        settings = Transfer.read(config)
        return (
            settings.image_size, settings.minival, settings.train_fraction, settings.augment
        )  # fmt: skip

    assert of("glyphs") == (24, 0.1, 1.0, "shift_colour")
    assert of("folder:PATH") == (None, 0.1, 1.0, "default")  # photographs: the paper's views
    assert of("tfds:NAME") == (None, 0.1, 1.0, "default")
    assert of("imagenet2012") == (None, 0.01, 0.1, "default")
    assert of("imagenet2012", minival=0.5, augment="weak") == (None, 0.5, 0.1, "weak")


def test_a_study_reads_images_as_they_are_for():
    def of(arg=None, **fields):
        config = get_config("study", arg)
        config.update(fields)
        settings = Study.read(config)
        return settings.image_size, settings.crop_pct, settings.interpolation

    for name in ("glyphs", "glyphs_unlabeled", "glyphs_few"):
        assert of(f"data={name}") == of(data=name) == (24, 1.0, "bilinear")
    assert of("data=folder:PATH") == of(data="folder:PATH") == (224, 0.875, "bicubic")
    assert of("data=folder:PATH", image_size=96) == (96, 0.875, "bicubic")


def test_a_protocol_that_is_left_open_follows_from_the_data():
    def of(source, **fields):
        config = get_config("transfer", f"data={source}")
        config.update(fields)
        settings = Transfer.read(config)
        return settings.schedule, settings.warmup, settings.clip_norm

    assert of("imagenet2012") == ("constant", 0.0, None)
    assert of("folder:PATH") == of("glyphs") == ("cosine", 0.05, 1.0)
    assert of("folder:PATH", warmup=0.1, clip_norm=3.0) == ("cosine", 0.1, 3.0)
    assert of("folder:PATH", schedule="constant", warmup=0.0) == ("constant", 0.0, None)


def test_learning_rates_that_nobody_knows_are_searched_for():
    def of(source, arg="objectives=kl+xe_kl_mcl,", **fields):
        config = get_config("transfer", f"{arg}data={source}")
        config.update(fields)
        settings = Transfer.read(config)
        return [plan.rates(settings, label) for label in settings.objectives]

    assert of("imagenet2012") == [(1e-4,), (1e-2,)]  # the paper's
    assert of("glyphs") == [(0.1,), (1e-2,)]
    assert of("folder:PATH")[0] == of("caltech256")[0] == (0.001, 0.01, 0.1, 1.0)
    assert of("folder:PATH", learning_rates=(0.1, 0.2))[0] == (0.1, 0.2)
    assert of("imagenet2012", arg="objectives=kl,find_rates,") == [(0.001, 0.01, 0.1, 1.0)]


@pytest.mark.parametrize(
    ("source", "arg", "recipe"),
    [
        ("glyphs", "model=tiny_vit", "shift_colour"),
        ("glyphs", "model=glyphs/tiny_vit", "shift_colour"),  # letters are never mirrored
        ("folder:PATH", "model=tiny_vit", "minimal"),
        ("folder:PATH", "model=timm/resnet50.a1_in1k", "minimal"),
    ],
)
def test_views_of_pretraining_follow_the_data(source, arg, recipe):
    config = get_config("pretrain", arg)
    config.data = source
    assert RECORDS["pretrain"].read(config).augment == recipe
    config.augment = "default"
    assert RECORDS["pretrain"].read(config).augment == "default"


@pytest.mark.parametrize(
    ("batch_size", "every"), [(16, 32), (64, 8), (96, 5), (200, 3), (256, 2), (512, 1), (4096, 1)]
)
def test_slow_weights_follow_every_512_samples(batch_size, every):
    """2 * 256 / batch_size steps, whole and one at least, of whatever the batch became."""
    config = get_config("transfer", "objectives=xe_kl_mcl")
    config.batch_size = batch_size
    settings = Transfer.read(config)
    assert settings.mcl["xe_kl_mcl"].every == every
    assert settings.to_json()["mcl"]["xe_kl_mcl"]["every"] == every  # in config.json
    config.mcl.xe_kl_mcl.every = 7
    assert Transfer.read(config).mcl["xe_kl_mcl"].every == 7


@pytest.mark.parametrize("mcl", [5, {"kl": 5}, {"kl": {"tau": 0.5}}])
def test_slow_weights_that_are_none_are_refused(mcl):
    config = get_config("transfer").to_dict() | {"mcl": mcl}
    with pytest.raises(ValueError, match=r"mcl.*(must be a mapping|lacks)|lacks .*mcl"):
        Transfer.read(config)


def test_options_of_one_objective_are_its_own():
    """Placeholders that entries shared changed all of them."""
    config = get_config("transfer", "objectives=kl+kl_dp")
    config.objectives.kl.top_k = 5
    assert config.objectives.kl_dp.top_k is None


@pytest.mark.parametrize(
    ("fields", "steps"),
    [
        (dict(total_steps=7, total_epochs=None), 7),
        (dict(total_epochs=2.0), 20),
        (dict(total_epochs=0.5), 5),
        (dict(total_epochs=0.14), 1),
        (dict(), 200),  # 20 epochs, and of few images 200 steps
        (dict(batch_size=5), 420),
    ],
)
def test_durations(fields, steps):
    config = get_config("transfer")
    config.update(dict(batch_size=10, eval_every_epochs=1.0) | fields)
    durations = Transfer.read(config).durations(105)
    assert durations == (105 // config.batch_size, steps, min(durations.epoch, steps))


@pytest.mark.parametrize(
    ("examples", "every"),
    [(128_117, 2001), (461, 10), (640, 10), (6400, 100)],  # an epoch of ImageNet's; 20 times
)
def test_evaluations_are_not_more_than_twenty(examples, every):
    durations = Transfer.read(get_config("transfer", "data=folder:PATH")).durations(examples)
    assert durations.eval_every == every
    assert durations.total / every <= 20


def test_durations_that_contradict_each_other():
    config = get_config("transfer")
    config.update(total_steps=7, total_epochs=1.0)
    with pytest.raises(ValueError, match="Give one of config.total_steps=7"):
        Transfer.read(config)


def test_durations_of_less_than_a_step():
    config = get_config("transfer")
    config.update(batch_size=10, total_epochs=0.01)
    with pytest.raises(ValueError, match=r"total_epochs comes to 0.1 steps"):
        Transfer.read(config).durations(100)
    with pytest.raises(ValueError, match="has 9 images, fewer than config.batch_size=10"):
        Transfer.read(config).durations(9)
