"""A learning rate that is None: each run takes the one that suits it, and so do its controls."""

import numpy as np
import pytest
from safetensors import numpy as safetensors_numpy
from small_jobs import load_config, transferring

from ktjax import train
from ktjax.analysis import rows
from ktjax.jobs import transfer

pytestmark = pytest.mark.usefixtures("compile_once")
RATES = (1e-6, 0.1, 3.0)


def choosing(images, names, *, arg="objectives=kl", **fields):
    config = transferring(
        images, names[0], names[1:2], arg=arg, learning_rates=RATES, total_steps=3, **fields
    )
    with config.unlocked():
        for entry in config.objectives.values():
            entry.learning_rate = None
    return config


def test_the_best_on_tune_of_runs_with_all_steps(noisy, quartet, tmp_path):
    config = choosing(noisy, quartet, arg="objectives=kl,controls=xe_self")
    results = rows.read(transfer.run(config, tmp_path / "chosen"))
    (run,) = results.runs
    assert list(run.rates) == ["1e-06", "0.1", "3"]
    alone = {}
    for rate in RATES:
        fixed = transferring(noisy, quartet[0], quartet[1:2], arg="objectives=kl", total_steps=3)
        with fixed.unlocked():
            fixed.objectives.kl.learning_rate = rate
        (alone[rate],) = rows.read(transfer.run(fixed, tmp_path / str(rate))).runs
        assert run.rates[f"{rate:g}"] == pytest.approx(alone[rate].history[-1].tune["delta"])
    assert len(set(run.rates.values())) > 1  # there was something to choose
    best = max(RATES, key=lambda rate: alone[rate].history[-1].accuracy)
    assert run.learning_rate == best and run.rates[f"{best:g}"] == max(run.rates.values())
    assert (run.accuracy_after, run.delta) == (alone[best].accuracy_after, alone[best].delta)
    ours, theirs = (
        safetensors_numpy.load_file(folder / "students" / run.run / "model.safetensors")
        for folder in (tmp_path / "chosen", tmp_path / str(best))
    )
    for name, array in ours.items():
        np.testing.assert_array_equal(array, theirs[name])
    # The control is tried at all of them, too.
    assert {c.learning_rate for c in results.controls} == set(RATES)


def test_one_step_is_traced_for_all_rates_and_seeds(noisy, quartet, tmp_path, monkeypatch):
    """Also where teachers run in the step, whose outputs no other transfer asks for."""
    made, make = [], train.make_train_step

    def counted(**given):
        step = make(**given)

        def traced(*arguments):
            made.append(given["objective"])
            return step(*arguments)

        return traced

    monkeypatch.setattr(train, "make_train_step", counted)
    for targets in ("stored", "live"):
        config = choosing(noisy, quartet, arg="objectives=kl,controls=xe", targets=targets)
        config.update(seeds=(1, 2), learning_rates=RATES[:2])
        made.clear()
        results = rows.read(transfer.run(config, tmp_path / targets))
        assert len(results.runs) == 2 and len(results.controls) == 4
        assert len(made) == 2  # of the objective and of the control


def test_the_best_on_tune_is_that_of_what_is_exported(noisy, quartet, tmp_path):
    config = choosing(noisy, quartet, arg="objectives=kl,controls=", export="best")
    (run,) = rows.read(transfer.run(config, tmp_path)).runs
    assert run.rates[f"{run.learning_rate:g}"] == pytest.approx(run.tune_delta)
    assert run.tune_delta == pytest.approx(max(run.rates.values()))
    assert run.tune_delta == max(entry.tune["delta"] for entry in run.history)


@pytest.mark.parametrize("steps", [1, 3])  # after the last no loss shows it
def test_a_rate_at_which_training_diverges_is_left_out(steps, noisy, quartet, tmp_path, capfd):
    config = choosing(noisy, quartet, arg="objectives=kl,controls=xe_self")
    config.update(learning_rates=(0.1, 1e25), total_steps=steps)
    results = rows.read(transfer.run(config, tmp_path))
    (run,) = results.runs
    assert run.learning_rate == 0.1 and list(run.rates) == ["0.1", "1e+25"]
    assert run.rates["0.1"] is not None and run.rates["1e+25"] is None
    assert {control.learning_rate for control in results.controls} == {0.1}
    assert run.net is not None
    told = "".join(capfd.readouterr())
    assert "learning rate 0.1, diverged at 1e+25, " in told
    assert "xe_self-1e+25-1 is left out: " in told


def test_what_is_told_of_rates_is_the_whole_change(noisy, quartet, tmp_path):
    """Of teachers that come one after another, not that by the last of them."""
    config = choosing(noisy, quartet, arg="objectives=kl,strategy=sequential,controls=")
    config.update(teachers=tuple(quartet[1:3]), learning_rates=(0.1, 3.0))
    (run,) = rows.read(transfer.run(config, tmp_path)).runs
    stages = [stage.history[-1].tune["delta"] for stage in run.stages]
    assert run.rates[f"{run.learning_rate:g}"] == pytest.approx(sum(stages))
    assert abs(stages[0]) > 0  # or the last would be the whole


def test_rates_that_are_alike_are_refused(noisy, quartet, refused):
    config = choosing(noisy, quartet)
    config.learning_rates = (0.1234561, 0.1234562)
    refused(transfer.run, config, "learning_rates=.* has duplicates")


def test_rates_at_which_all_diverge_are_an_error(noisy, quartet, tmp_path):
    config = choosing(noisy, quartet, arg="objectives=kl,controls=")
    config.learning_rates = (1e25, 1e26)
    with pytest.raises(FloatingPointError, match="a lower learning rate, or clipping, may help"):
        transfer.run(config, tmp_path)


def test_an_argument_asks_for_it():
    given = "student=glyphs/tiny_mlp,teachers=glyphs/tiny_vit,objectives=kl+xe_kl_mcl"
    for more, rates in ((",find_rates", {None}), ("", {None, 1e-2})):
        config = load_config("transfer", given + more)
        assert {entry.learning_rate for entry in config.objectives.values()} == rates


def test_models_that_train_at_once_have_one(noisy, quartet, tmp_path):
    config = choosing(noisy, quartet, arg="strategy=mutual")
    with pytest.raises(ValueError, match="mutual.learning_rate must be a number"):
        transfer.run(config, tmp_path)
