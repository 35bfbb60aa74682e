"""What runs cost, counted by hand: 68 images in batches of 16, so an epoch has 4 steps."""

import csv
from pathlib import Path

import pytest
from small_jobs import studying, transferring

from ktjax.analysis import rows
from ktjax.jobs import study, transfer
from ktjax.report import transfer as report

pytestmark = pytest.mark.usefixtures("compile_once")
IMAGES, BATCH, STEPS, EPOCHS = 68, 16, 6, 2


@pytest.mark.parametrize("targets", ["stored", "live"])
def test_each_model_is_asked_in_every_step_or_once_per_view(noisy, quartet, tmp_path, targets):
    arg = "objectives=kl_dp,controls=xe_self,strategy=parallel"
    config = transferring(noisy, quartet[0], quartet[1:3], arg=arg, targets=targets)
    results = rows.read(transfer.run(config, tmp_path))
    asked = STEPS * BATCH if targets == "live" else EPOCHS * IMAGES
    assert [run.passes for run in results.runs] == [3 * asked]  # with the initial student
    assert [run.passes for run in results.controls] == [asked]
    assert {run.steps for run in (*results.runs, *results.controls)} == {STEPS}
    table = report.sections(results)[-1]
    assert table.heading == "What each run cost" and len(table.groups[0]) == 2
    assert table.groups[0][0][1:4] == ["1", "6", f"{3 * asked:,}"]


def test_all_learning_rates_count(noisy, quartet, tmp_path):
    found = dict(learning_rates=(0.1, 1e25, 0.01), targets="live")
    config = transferring(noisy, quartet[0], quartet[1:2], **found)
    config.objectives.kl_dp.learning_rate = None
    (run,) = rows.read(transfer.run(config, tmp_path)).runs
    assert run.steps == 2 * STEPS  # one of the three diverged
    assert run.passes == 2 * 2 * STEPS * BATCH


def test_teachers_one_after_another(noisy, quartet, tmp_path):
    """Stored answers serve all rates, but the student between the two differs by rate. With one
    view, they serve all epochs.
    """
    arg = "objectives=kl_dp,strategy=sequential"
    found = dict(learning_rates=(0.1, 0.01), targets="stored", views=1)
    config = transferring(noisy, quartet[0], quartet[1:3], arg=arg, **found)
    config.objectives.kl_dp.learning_rate = None
    (run,) = rows.read(transfer.run(config, tmp_path)).runs
    asked = IMAGES
    assert [(s.steps, s.passes) for s in run.stages] == [(STEPS, 2 * asked)] * 2
    assert (run.steps, run.passes) == (2 * 2 * STEPS, 5 * asked)


def test_a_store_is_not_asked(noisy, quartet, tmp_path):
    stored = dict(targets="stored", store=str(tmp_path / "store"))
    config = transferring(noisy, quartet[0], quartet[1:2], **stored)
    (live,) = rows.read(transfer.run(config, tmp_path / "model")).runs
    (folder,) = (tmp_path / "store").glob(f"{Path(quartet[1]).name}-*")
    config.teachers = (f"store:{folder}",)
    (replayed,) = rows.read(transfer.run(config, tmp_path / "only answers")).runs
    assert (live.passes, replayed.passes) == (2 * EPOCHS * IMAGES, EPOCHS * IMAGES)


def test_a_study_has_the_mean(noisy, quartet, tmp_path):
    config = studying(noisy, quartet[:1], quartet[1:3])
    results = rows.read(study.run(config, tmp_path))
    cost = (STEPS, 2 * EPOCHS * IMAGES)
    assert {(row.steps, row.passes) for row in results.rows if row.teacher} == {cost}
    assert {(row.steps, row.passes) for row in results.rows if not row.teacher} == {(STEPS, 0)}
    (of,) = results.success.values()
    assert (of["steps"], of["passes"]) == cost
    with (tmp_path / "pairs.csv").open() as lines:
        control, *pairs = csv.DictReader(lines)
    assert (control["steps"], control["passes"]) == ("6", "0") and len(pairs) == 2
    assert {(row["steps"], row["passes"], row["least_gain"]) for row in pairs} == {("6", "272", "")}
    for row, found in zip([control, *pairs], results.rows, strict=True):
        assert (row["learning_rate"], row["exported"]) == ("0.1", "the last")
        assert float(row["tune_delta"]) == found.tune_delta
