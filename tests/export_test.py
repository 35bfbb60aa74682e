"""What a transfer hands on: the last weights, or none that are not better than before."""

import itertools
import types
from pathlib import Path

import numpy as np
import pytest
from controls_test import make_run
from safetensors import numpy as safetensors_numpy
from small_jobs import check_same, transferring

from ktjax import interruption, loop
from ktjax.analysis import decision, rows
from ktjax.checkpoint import Unwritten
from ktjax.experiment import training
from ktjax.jobs import transfer
from ktjax.jobs.transfer import export, frozen, stages
from ktjax.report import verdicts

pytestmark = pytest.mark.usefixtures("compile_once")


def asked(images, names, controls="xe"):
    """8 images of tune, of which half decide: too few for any certainty."""
    arg = f"objectives=kl,controls={controls}"
    return transferring(images, names[0], names[1:2], arg=arg, export="no_regret")


def weights_of(folder):
    return safetensors_numpy.load_file(folder / "model.safetensors")


def test_between_by_hand():
    before = {"params": {"a": np.zeros(2, np.float32)}, "batch_stats": np.float32([4])}
    after = {"params": {"a": np.float32([2, -4])}, "batch_stats": np.float32([8])}
    found = export.between(before, after, 0.25)
    np.testing.assert_array_equal(found["params"]["a"], [0.5, -1])
    np.testing.assert_array_equal(found["batch_stats"], [5])
    assert found["params"]["a"].dtype == np.float32


def test_a_run_that_finds_nothing_better_abstains(noisy, quartet, tmp_path, capsys):
    results = rows.read(transfer.run(asked(noisy, quartet), tmp_path))
    (run,) = results.runs
    assert run.abstained and run.exported == export.BEFORE and run.tune_delta == 0
    assert (run.delta, run.gain, run.loss) == (0, 0, 0)
    assert run.accuracy_after == run.accuracy_before
    assert run.history  # it was trained
    assert run.least_gain is None  # four images show nothing
    assert run.net == -next((c.delta for c in results.controls if c.run == run.control), 0)
    last = rows.read(
        transfer.run(
            transferring(noisy, quartet[0], quartet[1:2], arg="objectives=kl"), tmp_path / "last"
        )
    ).runs[0]
    assert last.delta != 0 and run.last_delta == last.delta and last.last_delta is None
    before, after = weights_of(Path(quartet[0])), weights_of(tmp_path / "students" / run.run)
    for name, array in before.items():
        np.testing.assert_array_equal(array, after[name])
    assert all(control.abstained for control in results.controls)
    said = capsys.readouterr().out
    assert "abstains, stays at" in said
    first = next(line for line in said.splitlines() if line.startswith("2 models"))
    assert "1 transfer and 1 control of 6 steps each. The first steps wait" in first
    assert first.endswith("So few steps change little: raise config.total_steps.")
    text = verdicts.abstentions(results)
    assert text.startswith("1 of 1 transfers abstained: ")
    assert f"would have changed it by {last.delta:+.2f} points, and those without a " in text


def prefer(monkeypatch, name):
    """The candidate of this name is the best on tune."""
    of = export._of

    def preferred(*args):
        made = of(*args)
        return made._replace(accuracy=100.0 * (made.name == name))

    monkeypatch.setattr(export, "_of", preferred)


def test_the_best_on_tune_is_handed_on_if_it_is_better(noisy, quartet, tmp_path, monkeypatch):
    seen = []

    def is_better(before_N, after_N, label_N, *, decisions):
        seen.append((len(label_N), decisions))
        return True

    monkeypatch.setattr(decision, "is_better", is_better)
    prefer(monkeypatch, "25% of the way")
    (run,) = rows.read(transfer.run(asked(noisy, quartet, controls=""), tmp_path)).runs
    assert seen == [(4, 1)]
    assert not run.abstained and run.exported == "25% of the way"
    last = rows.read(
        transfer.run(
            transferring(noisy, quartet[0], quartet[1:2], arg="objectives=kl"), tmp_path / "last"
        )
    ).runs[0]
    assert last.exported == export.LAST and last.least_gain is None and not last.abstained
    ends = [weights_of(Path(quartet[0])), weights_of(tmp_path / "last/students" / last.run)]
    found = weights_of(tmp_path / "students" / run.run)
    for name, array in found.items():
        a, b = (end[name] for end in ends)
        np.testing.assert_allclose(array, a + (b - a) / 4, rtol=1e-4, atol=1e-6)


def test_the_mean_of_the_last_half(noisy, quartet, tmp_path, monkeypatch):
    """Against runs of fewer steps: the learning rate is constant, so they are the same steps."""
    monkeypatch.setattr(decision, "is_better", lambda *args, decisions: True)
    prefer(monkeypatch, export.TAIL)
    (run,) = rows.read(transfer.run(asked(noisy, quartet, controls=""), tmp_path)).runs
    assert run.exported == export.TAIL
    of_steps = []
    for steps in (4, 5, 6):
        short = transferring(
            noisy, quartet[0], quartet[1:2], arg="objectives=kl", total_steps=steps
        )
        transfer.run(short, tmp_path / str(steps))
        of_steps.append(weights_of(tmp_path / str(steps) / "students" / run.run))
    for name, array in weights_of(tmp_path / "students" / run.run).items():
        mean = np.mean([weights[name] for weights in of_steps], axis=0)
        np.testing.assert_allclose(array, mean, rtol=1e-5, atol=1e-6)


def test_controls_of_a_sequence_decide_at_its_level(noisy, quartet, tmp_path, monkeypatch, capsys):
    """Two stages, at two learning rates of which the best counts: four decisions each."""
    arg = "objectives=kl,controls=xe,strategy=sequential"
    config = transferring(noisy, quartet[0], quartet[1:3], arg=arg, export="no_regret")
    config.objectives.kl.learning_rate, config.learning_rates = None, (0.01, 0.1)
    decided, no_regret = {}, export.no_regret

    def watched(start, before, after, fitted, *, decisions):
        what = "xe" if "no teacher" in after.origin else "kl"
        decided.setdefault(what, []).append(decisions)
        return no_regret(start, before, after, fitted, decisions=decisions)

    monkeypatch.setattr(export, "no_regret", watched)
    transfer.run(config, tmp_path)
    assert decided == {"kl": [4] * 4, "xe": [4] * 4}
    cost = "1 transfer and 2 controls of 2 x 6 steps each, at up to 2 learning rates."
    assert cost in capsys.readouterr().out


def test_of_stages_the_last_weights_are_those_of_the_last_stage():
    of = [make_run("kl", delta, last_delta=last) for delta, last in ((1.0, 3.0), (0.0, -0.5))]
    assert stages.last_delta(of) == 0.5  # the last stage began one point higher
    assert stages.last_delta([of[1], make_run("kl", 1.0)]) is None  # it exported them


def test_the_best_on_tune(noisy, quartet, tmp_path, monkeypatch, caplog):
    """Of six evaluations the third and the fourth are the best, as the test has it."""
    scores = itertools.cycle([1.0, 2.0, 9.0, 9.0, 5.0, 4.0])
    on_tune = frozen.rows.on_tune
    monkeypatch.setattr(
        frozen.rows, "on_tune", lambda *args: {**on_tune(*args), "accuracy": next(scores)}
    )
    config = transferring(
        *(noisy, quartet[0], quartet[1:2]), arg="objectives=kl", export="best", eval_every_steps=1
    )
    (run,) = rows.read(transfer.run(config, tmp_path / "best")).runs
    assert run.exported == export.BEST and not run.abstained
    short = transferring(noisy, quartet[0], quartet[1:2], arg="objectives=kl", total_steps=4)
    transfer.run(short, tmp_path / "short")
    fourth = weights_of(tmp_path / "short/students" / run.run)
    for name, array in weights_of(tmp_path / "best/students" / run.run).items():
        np.testing.assert_array_equal(array, fourth[name])
    # Without its checkpoint the run still ends: with what else there is.
    (tmp_path / "best/results.json").unlink()
    for file in (tmp_path / "best/checkpoints" / run.run / "4").rglob("*"):
        if file.is_file():
            file.write_bytes(b"")
    (run,) = rows.read(transfer.run(config, tmp_path / "best")).runs
    assert run.exported == export.LAST
    assert "The best on tune, of step 4, is left out: None of the checkpoints" in caplog.text


def test_a_full_disk_is_not_taken_for_a_damaged_best():
    """When the best is read, it may first be seen that the last was not written."""

    class Full:
        def restore(self, like, *, steps):
            raise Unwritten("full")

    history = [{"step": 1, "accuracy": 2.0}, {"step": 2, "accuracy": 1.0}]
    with pytest.raises(Unwritten):
        training._best(Full(), types.SimpleNamespace(state=None), history)


def test_asked_to_end_before_the_first_evaluation(noisy, quartet, tmp_path, monkeypatch):
    """There is no best yet, and none is needed."""
    config = transferring(*(noisy, quartet[0], quartet[1:2]), arg="objectives=kl", export="best")
    run = loop.run
    with monkeypatch.context() as patch, pytest.raises(interruption.Interrupted):
        patch.setattr(interruption._Asked, "ever", False)

        def asked():
            interruption._Asked.ever = True
            return True

        patch.setattr(loop, "run", lambda *args, **kw: run(*args, **kw | {"stop": asked}))
        transfer.run(config, tmp_path / "asked")
    assert list((tmp_path / "asked").glob("checkpoints/*/1"))  # its first step is saved
    for name in ("asked", "undisturbed"):
        transfer.run(config, tmp_path / name)
    check_same(tmp_path / "asked", tmp_path / "undisturbed")


def test_models_that_train_at_once_have_no_such_export(noisy, quartet, tmp_path):
    config = transferring(
        *(noisy, quartet[0], quartet[1:2]), arg="strategy=mutual", export="no_regret"
    )
    with pytest.raises(ValueError, match="set config.export to last"):
        transfer.run(config, tmp_path)


def test_what_has_improved_is_handed_on(images, quartet, tmp_path):
    """Decided by the test itself: of these images the models have seen none."""
    config = transferring(
        images,
        quartet[0],
        quartet[3:],
        arg="objectives=xe_kl",
        export="no_regret",
        minival=0.5,
        total_steps=60,
    )
    (run,) = rows.read(transfer.run(config, tmp_path)).runs
    assert not run.abstained and run.delta > 20 and run.least_gain > 0
    before, after = weights_of(Path(quartet[0])), weights_of(tmp_path / "students" / run.run)
    assert all(np.any(after[name] != array) for name, array in before.items())
