"""Answers stored on disk: replayed bit for bit, resumed, refused where anything differs."""

import contextlib
import json
import shutil
import signal
import subprocess
import sys
import time
from concurrent import futures

import jax
import numpy as np
import pytest
import small_jobs
from safetensors import numpy as safetensors_numpy
from small_jobs import KilledError, kill_at, transferring

import ktjax
from ktjax import arrays, augment, parallel
from ktjax.experiment import filling, lease, stores
from ktjax.experiment.shared import Shared
from ktjax.jobs import study, transfer
from ktjax.jobs.study import plan
from ktjax.models.checkpoints import weights
from ktjax.settings.study import Study
from ktjax.settings.transfer import Transfer
from ktjax.targets import live as live_lib
from ktjax.targets import rows
from ktjax.targets import store as store_lib

pytestmark = pytest.mark.usefixtures("compile_once")

VIEWS = 2  # of three passes: the third sees the first view again


def config_of(noisy, quartet, **fields):
    arg = fields.pop("arg", "objectives=kl_dp")
    given = dict(total_steps=10, eval_every_steps=10, views=VIEWS) | fields
    teachers = given.pop("teachers", quartet[2:3])
    return transferring(noisy, quartet[0], teachers, arg=arg, **given)


def run(config, workdir):
    (row,) = transfer.run(config, workdir)["runs"]
    return row, safetensors_numpy.load_file(workdir / "students" / row["run"] / weights.WEIGHTS)


def same(found, expected):
    assert found.keys() == expected.keys()
    for name, array in expected.items():
        np.testing.assert_array_equal(found[name], array, err_msg=name)


def of_model(root, name):
    """The store of one model below a folder."""
    (folder,) = root.glob(f"{name}-*")
    return folder


@pytest.fixture(scope="module")
def live(noisy, quartet, tmp_path_factory):
    return run(config_of(noisy, quartet), tmp_path_factory.mktemp("live"))


@pytest.fixture(scope="module")
def stored(noisy, quartet, tmp_path_factory):
    """A folder of stores, and the run that has filled it."""
    root = tmp_path_factory.mktemp("stores")
    config = config_of(noisy, quartet, targets="stored", store=str(root / "shared"))
    return root / "shared", *run(config, root / "workdir")


@pytest.fixture(scope="module")
def short(noisy, quartet, tmp_path_factory):
    """The same of the two largest of four logits."""
    root = tmp_path_factory.mktemp("short")
    fields = dict(targets="stored", store=str(root / "shared"), store_top_k=2)
    return root / "shared", *run(config_of(noisy, quartet, **fields), root / "workdir")


def test_stored_answers_are_those_of_asking(live, stored):
    """Of other compiled programs, so not to the bit; no sample is a near-tie here."""
    root, row, exported = stored
    assert sorted(path.name for path in of_model(root, "weak").glob("view*.npy")) == [
        store_lib.view_name(view) + ".npy" for view in range(VIEWS)
    ]
    assert row["taught"] == live[0]["taught"] and 0 < row["taught"] < 100
    for name, array in live[1].items():
        np.testing.assert_allclose(exported[name], array, atol=1e-5, err_msg=name)


@pytest.mark.parametrize("kept", [None, 2])
def test_a_step_gets_the_bits_that_were_predicted(kept, stored, short, noisy, quartet):
    model, split = ktjax.load_model(quartet[2]), small_jobs.splits(noisy).train
    store = store_lib.open_store(of_model((short if kept else stored)[0], "weak"))
    answers = live_lib.make_answers(
        *(model, split),
        augment=augment.make_augment("minimal", seed=1),
        seed=1,
        batch_size=16,
        dtype=np.dtype("float32"),
        layout="pmap",
        form=store.form,
    )
    read = [store_lib.read_rows(store, store_lib.view_name(v), store.form) for v in range(VIEWS)]
    of_all = live_lib.all_at_once(np.stack(read), store.form, "pmap")
    of_one = live_lib.one_at_a_time(read.__getitem__, store.form, "pmap")
    index_B = np.array([67, 0, 3, 3])
    for view in range(VIEWS):
        predicted_N = answers(view)
        np.testing.assert_array_equal(read[view], predicted_N)
        for of_view in (of_all, of_one):
            found = jax.jit(rows.look_up)(of_view(view), view, index_B).logits
            if kept is None:
                np.testing.assert_array_equal(found, predicted_N[index_B])
                continue
            for name in store.form.fields:
                axes = {"class": "BxK", "logit": "BxK", "rest": "BxR"}.get(name, "B")
                expected = predicted_N[name][index_B]
                np.testing.assert_array_equal(getattr(found, f"{name}_{axes}"), expected)
    assert not np.array_equal(read[0], read[1])


@pytest.mark.parametrize(
    "fields",
    [
        pytest.param({}, marks=pytest.mark.full, id="again"),
        pytest.param(dict(cache_gb=0.0), id="a view at a time"),
        pytest.param(dict(store=None), marks=pytest.mark.full, id="in memory"),
        pytest.param(
            dict(store=None, cache_gb=0.0), marks=pytest.mark.full, id="one of them in memory"
        ),
    ],
)
def test_wherever_answers_are_kept_the_bits_are_the_same(fields, stored, noisy, quartet, tmp_path):
    root, row, exported = stored
    before = {path: path.stat().st_mtime_ns for path in root.rglob("*.npy")}
    config = config_of(noisy, quartet, **dict(targets="stored", store=str(root)) | fields)
    again, found = run(config, tmp_path)
    same(found, exported)
    assert again["history"][-1]["loss"] == row["history"][-1]["loss"]
    assert {path: path.stat().st_mtime_ns for path in root.rglob("*.npy")} == before  # nobody asked


@pytest.mark.full  # train_test.py has how dispatches are cut
def test_dispatches_end_with_the_view(stored, noisy, quartet, tmp_path):
    root, _, exported = stored
    fields = dict(store=str(root), cache_gb=0.0, steps_per_dispatch=3)
    _, found = run(config_of(noisy, quartet, targets="stored", **fields), tmp_path)
    for name, array in exported.items():
        np.testing.assert_allclose(found[name], array, atol=1e-6, err_msg=name)


def test_the_largest_logits_decide_as_all(short, live):
    _, row, exported = short
    assert row["taught"] == live[0]["taught"]
    student = [np.concatenate([a.ravel() for a in of.values()]) for of in (exported, live[1])]
    assert 0 < np.abs(student[0] - student[1]).max() < 0.02  # the rest as one, float16


def test_results_name_what_is_approximate(short, stored):
    for root, expected in ((short[0], {"kl_dp": "approximate"}), (stored[0], {})):
        assert small_jobs.read(root.parent / "workdir")["served"] == expected
    page = (short[0].parent / "workdir" / "report.html").read_text()
    assert "How the largest logits serve" in page


def test_so_do_those_of_a_study_and_controls(noisy, quartet, tmp_path):
    fields = dict(store_top_k=2, total_steps=1, eval_every_steps=1)
    of = dict(arg="objectives=kl_dp,controls=xe+xe_self+self")
    config = small_jobs.studying(noisy, quartet[:1], quartet[1:2], **of, **fields)
    served = {"kl_dp": "approximate", "xe-0.1": "exact", "xe_self-0.1": "approximate"}
    assert study.run(config, tmp_path)["served"] == served
    assert "How the largest logits serve" in (tmp_path / "report.html").read_text()


@pytest.mark.parametrize("kept", [pytest.param(None, marks=pytest.mark.full), 2])
def test_a_store_alone_teaches_as_its_model(kept, stored, short, noisy, quartet, tmp_path):
    root, row, exported = short if kept else stored
    fields = dict(teachers=[f"store:{of_model(root, 'weak')}"], targets="stored", store_top_k=kept)
    taught, found = run(config_of(noisy, quartet, **fields), tmp_path)
    same(found, exported)
    known = ("accuracy_before", "accuracy_after", "rho_pos", "ensemble_accuracy", "taught")
    assert [taught[k] for k in known] == [row[k] for k in known]


@pytest.mark.parametrize(
    "calls", [1, pytest.param(3, marks=pytest.mark.full, id="in the other model")]
)
def test_a_resumed_store_is_an_undisturbed_one(
    calls, stored, noisy, quartet, tmp_path, monkeypatch
):
    root, _, exported = stored
    fields = dict(targets="stored", store=str(tmp_path / "shared"))
    with monkeypatch.context() as patch:
        kill_at(patch, store_lib, "write_rows", calls=calls)
        with pytest.raises(KilledError):
            run(config_of(noisy, quartet, **fields), tmp_path / "workdir")
    assert len(list((tmp_path / "shared").rglob("view*.npy"))) == min(calls, VIEWS)
    same(run(config_of(noisy, quartet, **fields), tmp_path / "workdir")[1], exported)
    assert small_jobs.tree(tmp_path / "shared") == small_jobs.tree(root)


@pytest.mark.full
def test_killed_while_it_fills_a_store(noisy, quartet, cached, tmp_path):
    """By SIGKILL, again and again; two others fill the same store meanwhile."""
    arg = f"student={quartet[0]},teachers={quartet[2]},data=folder:{noisy},objectives=kl_dp"
    command = [
        *(sys.executable, "-m", "ktjax.main", f"--config=configs/transfer.py:{arg},controls="),
        *("--config.image_size=12", "--config.total_epochs=40.0", "--config.targets=stored"),
        *("--config.eval_batch_size=16", "--config.batch_size=16"),
        *("--config.objectives.kl_dp.learning_rate=1e-4", "--config.augment=shift_colour"),
    ]
    environment = dict(JAX_PLATFORMS="cpu", **cached)

    def start(root, name):
        folders = [f"--config.store={tmp_path / root}", f"--workdir={tmp_path / name}"]
        env = small_jobs.os.environ | environment
        return subprocess.Popen([*command, *folders], cwd=small_jobs.ROOT, env=env)

    assert start("undisturbed", "alone").wait(300) == 0
    expected = small_jobs.tree(tmp_path / "undisturbed")
    for kill in range(5):
        job = start("killed", f"killed-{kill}")
        begin, done = time.monotonic(), len(list((tmp_path / "killed").rglob("view*.npy")))
        while job.poll() is None and time.monotonic() - begin < 300:
            if len(list((tmp_path / "killed").rglob("view*.npy"))) > done + 7 * (kill + 1) % 11:
                break
            time.sleep(0.01)
        job.send_signal(signal.SIGKILL)
        job.wait()
    jobs = [start("killed", f"last-{i}") for i in range(2)]
    assert [job.wait(300) for job in jobs] == [0, 0]
    found = small_jobs.tree(tmp_path / "killed")
    left = (".part", ".lease")  # of those that were killed
    assert {k: v for k, v in found.items() if not k.endswith(left)} == expected


REFUSED = {
    "seed": (dict(seeds=(2,)), r"has the views of seed 1: set config.seeds to \(1,\)"),
    "augment": (
        dict(augment="weak"),
        r"does not match: images.augment is 'minimal' there and 'weak' here",
    ),
    "size": (dict(image_size=16), "images.size is 12 there and 16 here"),
    "crop": (dict(crop_pct=0.9), "images.crop_pct is 1.0 there and 0.9 here"),
    "fewer images": (dict(max_examples=40), "images.examples is 68 there and 40 here"),
    "views": (dict(views=None, total_steps=12), r"lacks view 2: training sees 3, but it has 2"),
    "features": (dict(arg="objectives=cd"), "compares features, but stored targets are logits"),
    "mutual": (
        dict(arg="objectives=mutual,strategy=mutual"),
        "has no frozen models: .* teachers that are a store do not apply",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refused_before_any_work(name, stored, noisy, quartet, refused):
    fields, message = REFUSED[name]
    teacher = f"store:{of_model(stored[0], 'weak')}"
    config = config_of(noisy, quartet, teachers=[teacher], **fields)
    refused(transfer.run, config, message)


def test_other_images_of_the_same_labels_are_refused(stored, images, quartet, refused):
    teacher = f"store:{of_model(stored[0], 'weak')}"
    config = config_of(images, quartet, teachers=[teacher])
    told = refused(transfer.run, config, "images.pixels is different; tune.pixels is different")
    assert len(told.splitlines()) == 1


def changed(folder, where, **fields):
    """A copy of a store whose store.json says something else."""
    shutil.copytree(folder, where)
    path = where / store_lib.DESCRIPTION
    path.write_text(json.dumps(json.loads(path.read_text()) | fields))
    return where


def test_other_classes_or_versions_are_refused(stored, noisy, quartet, refused, tmp_path):
    folder = of_model(stored[0], "weak")
    description = store_lib.open_store(folder).description
    for name, fields, message in (
        (
            "order",
            dict(classes=description["classes"][::-1]),
            r"class 0 is 'rows' there and 'checks' here",
        ),
        (
            "version",
            dict(versions=description["versions"] | dict(jax="0.1")),
            "versions.jax is '0.1' there and",
        ),
        ("format", dict(format=2), "is a store of format 2, but this version of ktjax reads 1"),
    ):
        other = changed(folder, tmp_path / name, **fields)
        refused(transfer.run, config_of(noisy, quartet, teachers=[f"store:{other}"]), message)


def test_what_a_run_would_fill_belongs_to_one_model(stored, tmp_path):
    """A folder of that name that says it is of something else is never taken."""
    folder = of_model(stored[0], "weak")
    description = store_lib.open_store(folder).description
    wanted = description | {"model": description["model"] | dict(weights="0" * 64)}
    assert store_lib.digest(wanted) != store_lib.digest(description)
    renamed = tmp_path / f"weak-{store_lib.digest(wanted)}"
    shutil.copytree(folder, renamed)
    with pytest.raises(ValueError, match=r"does not match: model.weights is different\."):
        store_lib.create(tmp_path, wanted)
    told = description | {"model": description["model"] | dict(origin="elsewhere")}
    assert store_lib.create(stored[0], told).folder == folder  # the same answers


def test_each_thing_that_answers_depend_on_has_a_store_of_its_own(stored):
    description = store_lib.open_store(of_model(stored[0], "weak")).description
    images = description["images"]
    others = [
        description | {"dtype": "bfloat16"},
        description | {"k": 2},
        description | {"classes": description["classes"][::-1]},
        *(description | {"images": images | {k: 7}} for k in images if k != "data"),
    ]
    digests = {store_lib.digest(other) for other in (description, *others)}
    assert len(digests) == len(others) + 1


def damage_truncated(path):
    path.write_bytes(path.read_bytes()[:-100])


def damage_bit(path):
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)


def damage_foreign(path):
    arrays.save(path, np.zeros((3, 4), np.float32))


def damage_pickle(path):
    np.save(path, np.array([None]), allow_pickle=True)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (damage_truncated, r"view-00001.npy' cannot be read \(.*\): delete it\."),
        (damage_bit, "is damaged: it does not match the digest beside it"),
        (
            damage_foreign,
            r"holds float32 \[3, 4\], but store.json next to it says float32 \[68, 4\]",
        ),
        (damage_pickle, r"cannot be read \(.*Python objects.*\): delete it"),
    ],
)
def test_a_view_that_is_not_what_was_written_is_told(damage, message, stored, tmp_path):
    shutil.copytree(of_model(stored[0], "weak"), tmp_path / "store")
    store = store_lib.open_store(tmp_path / "store")
    name = store_lib.view_name(1)
    expected = np.load(tmp_path / "store" / f"{name}.npy")
    np.testing.assert_array_equal(store_lib.read_rows(store, name, store.form), expected)
    damage(tmp_path / "store" / f"{name}.npy")
    with pytest.raises(ValueError, match=message) as error:
        store_lib.read_rows(store, name, store.form)
    assert "\n" not in str(error.value)
    (tmp_path / "store" / f"{name}.npy").unlink()
    with pytest.raises(ValueError, match="is missing: make the store again"):
        store_lib.read_rows(store, name, store.form)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "is not a store: it has no store.json"),
        ("[1", "store.json' is not valid JSON, or damaged"),
        ("[1]", "store.json' does not hold a JSON object"),
        ("{}", "is a store of format None, but this version of ktjax reads 1"),
        ('{"format": 1, "k": null}', "store.json of .* lacks classes, dtype, images, model"),
    ],
)
def test_a_folder_that_is_no_store_is_told(content, message, tmp_path):
    if content is not None:
        (tmp_path / "store.json").write_text(content)
    with pytest.raises(ValueError, match=message):
        store_lib.open_store(f"store:{tmp_path}")


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        (dict(images=None), r"lacks images.augment, images.examples, images.labels"),
        (
            dict(images=dict(examples=3, augment="plain")),
            r"lacks images.labels, images.pixels, ima",
        ),
        (dict(ways=None, k=2), "store.json of '.*' has ways=None: see ktjax/targets"),
        (dict(ways=[[0, False]], k=2), r"has ways=\[\[0, False\]\]:"),
        (dict(k=4), "has k=4:"),
    ],
)
def test_a_store_made_by_hand_is_checked(fields, message, stored, tmp_path):
    """Before a run: they were found by Python, or by training that diverged."""
    other = changed(of_model(stored[0], "weak"), tmp_path / "s", **fields)
    with pytest.raises(ValueError, match=message):
        store_lib.open_store(other)


def test_settings_that_do_not_go_together(noisy, quartet, refused):
    for fields, message in (
        (dict(store="/tmp/x"), "config.store=/tmp/x: only with config.targets='stored'"),
        (dict(store_top_k=2), "config.store_top_k=2: only with config.targets='stored'"),
        (
            dict(store_top_k=2, targets="stored", calibrate=True),
            "config.calibrate compares models at other temperatures, but the 2 largest",
        ),
        (
            dict(store_top_k=2, targets="stored", arg="objectives=kl_dp_average"),
            "needs an average of two models",
        ),
    ):
        refused(transfer.run, config_of(noisy, quartet, **fields), message)


def test_as_many_logits_as_classes_are_all_of_them(noisy, quartet, refused):
    fields = dict(store_top_k=4, targets="stored", arg="objectives=kl_pool")
    settings = Transfer.read(config_of(noisy, quartet, **fields))
    transfer.check(settings)
    assert len(transfer.load_data(settings, Shared()).dataset.classes) == 4
    with pytest.raises(ValueError, match="Objective 'kl_pool' needs all logits"):
        stores.check_kept(settings, classes=5)
    few = settings.model_copy(update={"store_top_k": 3})
    for run in (transfer.execute, lambda settings, _: transfer.load_data(settings, Shared())):
        refused(run, few, "needs all logits, which the 3 largest logits do not give")


def test_transfers_that_share_a_store_may_compare_at_other_temperatures(noisy, quartet, tmp_path):
    """Each finds the other classes summed up as its objective compares them."""
    shared, store = Shared(), str(tmp_path / "store")
    for temperature in (1.0, 4.0):
        fields = dict(targets="stored", store_top_k=2, total_steps=1, eval_every_steps=1)
        config = config_of(noisy, quartet, arg="objectives=kl", store=store, **fields)
        config.objectives.kl.temperature = temperature
        settings, workdir = Transfer.read(config), tmp_path / str(temperature)
        transfer.execute(settings, workdir, shared=shared, report=False)
        assert small_jobs.read(workdir)["served"] == {"kl": "approximate"}


def test_runs_of_a_study_that_compare_at_other_temperatures_share_a_store(noisy, quartet):
    """Of the largest logits: each model runs once for all of them."""
    config = small_jobs.studying(noisy, quartet[:1], quartet[1:2], arg="objectives=kl+hinton")
    config.update(store_top_k=2, store_softenings=((2.0, True),))
    config.objectives.hinton.temperature = 4.0
    settings = Study.read(config)
    runs = [run for run in plan.plan(settings, labeled=True) if run.teacher]
    own = [plan.transfer_of(settings, run) for run in runs]
    softenings = {next(iter(one.objectives)): one.softenings() for one in own}
    assert softenings == {"kl": ((1.0, False),), "hinton": ((1.0, False), (4.0, False))}
    forms = {stores.form_of(one, 10) for one in own}
    assert [form.ways for form in forms] == [((1.0, False), (2.0, True), (4.0, False))]
    assert own[0].identity() == own[0].model_copy(update={"store_softenings": ()}).identity()


def test_no_room_on_the_disk(stored, tmp_path, monkeypatch):
    shutil.copytree(of_model(stored[0], "weak"), tmp_path / "store")
    store = store_lib.open_store(tmp_path / "store")
    names = [store_lib.view_name(0), *store_lib.MEASURED]
    rows_N, *measured = (np.load(store.folder / f"{name}.npy") for name in names)
    measured = dict(zip(store_lib.MEASURED, measured, strict=True))
    store_lib.keep_only(store, [])
    asked = []
    monkeypatch.setattr(store_lib, "check_space", lambda _, needed: asked.append(needed))
    filling.fill(store, lambda _: rows_N, VIEWS, rows_N, measured=measured)
    assert asked == [VIEWS * rows_N.nbytes + sum(array.nbytes for array in measured.values())]
    monkeypatch.undo()
    store_lib.check_space(tmp_path / "new", 1)
    with pytest.raises(ValueError, match=r"would take 1000000000.00 GB more, and .* GB are free"):
        store_lib.check_space(tmp_path / "new", 10**18)


def test_parts_that_nobody_writes_any_more_go(stored, tmp_path):
    shutil.copytree(stored[0], tmp_path / "stores")
    folder = of_model(tmp_path / "stores", "weak")
    names = ("view-00001.npy.1.part", "view-00001.npy.2.part", "view-00001@0.lease")
    old, new, lease_of_a_dead_one = (folder / name for name in names)
    for path in (old, new, lease_of_a_dead_one):
        path.touch()
    for path in (old, lease_of_a_dead_one):
        small_jobs.os.utime(path, (0, 0))
    store_lib.create(tmp_path / "stores", store_lib.open_store(folder).description)
    assert new.exists() and not old.exists() and not lease_of_a_dead_one.exists()


def test_rows_of_many_classes():
    assert rows.form(32_767, 4, ()).dtype["class"].base == np.int16
    assert rows.form(32_768, 4, ()).dtype["class"].base == np.int32


def test_what_the_rest_is_summed_up_for(noisy, quartet):
    """Temperature 1, and what objectives and controls compare over all classes."""
    config = config_of(noisy, quartet, arg="objectives=kl_dp+hinton+xe,controls=xe+self")
    config.objectives.kl_dp.update(temperature=4.0, standardized=True)
    config.objectives.hinton.update(temperature=3.0, top_k=2)
    config.controls.self.temperature = 2.0
    settings = Transfer.read(config)
    assert settings.softenings() == ((1.0, False), (2.0, False), (4.0, True))
    config.update(targets="stored", store_top_k=2)
    stores.check_kept(Transfer.read(config), classes=4)
    config.controls.self.top_k = 3
    with pytest.raises(ValueError, match="'self' compares top_k=3 classes, but only the 2 largest"):
        stores.check_kept(Transfer.read(config), classes=4)


def test_two_that_write_the_same_do_not_clash(stored, tmp_path):
    shutil.copytree(of_model(stored[0], "weak"), tmp_path / "store")
    store, name = store_lib.open_store(tmp_path / "store"), store_lib.view_name(0)
    rows_N = np.array(store_lib.read_rows(store, name, store.form))

    def write():
        for _ in range(30):
            store_lib.write_rows(store, name, rows_N)

    with futures.ThreadPoolExecutor(2) as pool:
        writing = [pool.submit(write) for _ in range(2)]
        while not all(one.done() for one in writing):
            np.testing.assert_array_equal(store_lib.read_rows(store, name, store.form), rows_N)
        for one in writing:
            one.result()
    assert small_jobs.tree(tmp_path / "store") == small_jobs.tree(of_model(stored[0], "weak"))


def test_two_that_measure_a_model_leave_the_bits_of_one(stored, tmp_path):
    """Another run writes tune, of slightly other bits, just before this one."""
    shutil.copytree(of_model(stored[0], "weak"), tmp_path / "store")
    store = store_lib.open_store(tmp_path / "store")
    own = np.array(store_lib.read_rows(store, "tune", rows.Form(4)))
    store_lib.keep_only(store, [store_lib.view_name(view) for view in range(VIEWS)])
    with futures.ThreadPoolExecutor(1) as pool, contextlib.ExitStack() as other:
        assert other.enter_context(lease.take(store.folder / "tune", expiry=60)) is not None
        other_run = pool.submit(
            filling.fill, store, lambda _: own, VIEWS, own, measured={"tune": own + 1e-6}
        )
        with pytest.raises(futures.TimeoutError):
            other_run.result(timeout=0.5)
        store_lib.write_rows(store, "tune", own)
        other.close()
        other_run.result(timeout=60)
    np.testing.assert_array_equal(store_lib.read_rows(store, "tune", rows.Form(4)), own)


@pytest.mark.parametrize("name", [store_lib.view_name(VIEWS - 1), "tune"])
def test_what_process_0_wrote_is_waited_for(name, stored, tmp_path, monkeypatch):
    """Another process, on a client of NFS, sees it late."""
    shutil.copytree(of_model(stored[0], "weak"), tmp_path / "store")
    store = store_lib.open_store(tmp_path / "store")
    tune_NxC = np.array(store_lib.read_rows(store, "tune", rows.Form(4)))
    file = store.folder / f"{name}.npy"
    late = file.rename(tmp_path / "late")
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    monkeypatch.setattr(parallel, "is_first", lambda: False)
    monkeypatch.setattr(parallel, "as_first_sees", lambda mine: True)
    monkeypatch.setattr(parallel, "wait_for_all", lambda name: None)
    monkeypatch.setattr(parallel.time, "sleep", lambda seconds: late.rename(file))
    filling.fill(store, None, VIEWS, range(len(tune_NxC)), measured={"tune": tune_NxC})
    assert file.exists()


def test_two_that_fill_a_store_compute_each_view_once(stored, tmp_path):
    """Another run is at view 0, writes it, and then dies in view 1."""
    shutil.copytree(of_model(stored[0], "weak"), tmp_path / "store")
    whole = small_jobs.tree(tmp_path / "store")
    store = store_lib.open_store(tmp_path / "store")
    names = [store_lib.view_name(view) for view in range(VIEWS)]
    rows_VxN = [np.array(store_lib.read_rows(store, name, store.form)) for name in names]
    for name in names:
        (store.folder / f"{name}.npy").unlink()
    computed = []

    def answers(view):
        computed.append(view)
        return rows_VxN[view]

    images = range(len(rows_VxN[0]))
    with futures.ThreadPoolExecutor(1) as pool, contextlib.ExitStack() as other:
        for name in names:
            assert other.enter_context(lease.take(store.folder / name, expiry=60)) is not None
        other_run = pool.submit(filling.fill, store, answers, VIEWS, images)
        store_lib.write_rows(store, names[0], rows_VxN[0])
        with pytest.raises(futures.TimeoutError):
            other_run.result(timeout=0.5)
        assert not computed
        other.close()
        other_run.result(timeout=60)
    assert computed == [1]
    assert small_jobs.tree(tmp_path / "store") == whole
