"""What runs cost, counted by hand: 68 images in batches of 16, so an epoch has 4 steps."""

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


@pytest.mark.parametrize(("targets", "rates"), [("stored", 1), ("live", 2)])
def test_all_learning_rates_count(noisy, quartet, tmp_path, targets, rates):
    """A stored answer serves all rates; with one view, it serves all epochs."""
    found = dict(learning_rates=(0.1, 1e25, 0.01), targets=targets, views=1)
    config = transferring(noisy, quartet[0], quartet[1:2], **found)
    config.objectives.kl_dp.learning_rate = None
    (run,) = rows.read(transfer.run(config, tmp_path)).runs
    assert run.steps == 2 * STEPS  # one of the three diverged
    assert run.passes == 2 * (rates * STEPS * BATCH if targets == "live" else IMAGES)


def test_teachers_one_after_another_cost_twice(noisy, quartet, tmp_path):
    arg = "objectives=kl_dp,strategy=sequential"
    config = transferring(noisy, quartet[0], quartet[1:3], arg=arg, targets="stored")
    (run,) = rows.read(transfer.run(config, tmp_path)).runs
    assert [(s.steps, s.passes) for s in run.stages] == [(STEPS, 2 * EPOCHS * IMAGES)] * 2
    assert (run.steps, run.passes) == (2 * STEPS, 2 * 2 * EPOCHS * IMAGES)


def test_a_study_has_the_mean(noisy, quartet, tmp_path):
    config = studying(noisy, quartet[:1], quartet[1:3])
    results = rows.read(study.run(config, tmp_path))
    cost = (STEPS, 2 * EPOCHS * IMAGES)
    assert {(row.steps, row.passes) for row in results.rows if row.teacher} == {cost}
    assert {(row.steps, row.passes) for row in results.rows if not row.teacher} == {(STEPS, 0)}
    (of,) = results.success.values()
    assert (of["steps"], of["passes"]) == cost
    header, control, *pairs = (tmp_path / "pairs.csv").read_text().splitlines()
    assert header.endswith("seconds,steps,passes,error") and control.endswith(",6,0,")
    assert len(pairs) == 2 and all(row.endswith(",6,272,") for row in pairs)
