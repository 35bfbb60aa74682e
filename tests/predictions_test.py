"""predictions.py: what is kept of logits, and that the file has it whole or is refused."""

import math
import os

import numpy as np
import pytest
from safetensors import numpy as safetensors_numpy

from ktjax.analysis import predictions


def some(size=50, classes=9, seed=0):
    rng = np.random.default_rng(seed)
    logits = rng.normal(scale=4, size=(size, classes)).astype(np.float32)
    return logits, rng.integers(0, classes, size)


def same(a, b):
    return all(x.dtype == y.dtype and np.array_equal(x, y) for x, y in zip(a, b, strict=True))


def test_kept_is_what_a_loop_finds(monkeypatch):
    monkeypatch.setattr(predictions, "_ROWS_AT_ONCE", 7)  # does not divide the samples
    logits, label = some()
    found = predictions.of_logits(logits, label)
    assert found.top_NxK.dtype == np.int16 and found.top_NxK.shape == (50, 5)
    for n, z in enumerate(logits.astype(float)):
        order = sorted(range(9), key=lambda c, z=z: -z[c])
        assert found.top_NxK[n].tolist() == order[:5]
        assert found.correct_N[n] == (order[0] == label[n])
        p = np.exp(z) / np.exp(z).sum()
        for log_odds, c in ((found.label_log_odds_N, label[n]), (found.max_log_odds_N, order[0])):
            assert log_odds[n] == pytest.approx(math.log(p[c] / (1 - p[c])), rel=1e-5, abs=1e-5)


def test_a_temperature_scales_the_log_odds_and_not_the_answers(tmp_path):
    logits, label = some()
    plain, found = (
        predictions.of_logits(logits, label),
        predictions.of_logits(logits, label, temperature=2.5),
    )
    np.testing.assert_array_equal(found.top_NxK, plain.top_NxK)
    np.testing.assert_array_equal(found.correct_N, plain.correct_N)
    for n, z in enumerate(logits.astype(float) / 2.5):
        p = np.exp(z) / np.exp(z).sum()
        for log_odds, c in ((found.label_log_odds_N, label[n]), (found.max_log_odds_N, z.argmax())):
            assert log_odds[n] == pytest.approx(math.log(p[c] / (1 - p[c])), rel=1e-5, abs=1e-5)
    assert (plain.temperature, found.temperature) == (1, 2.5)
    path = tmp_path / "a.safetensors"
    predictions.save(path, found)
    assert same(predictions.load(path), found)
    # An earlier version kept no temperature: it was always 1.
    entries = {k: v for k, v in plain._asdict().items() if k != "temperature"}
    path.write_bytes(safetensors_numpy.save(entries))
    assert same(predictions.load(path), plain)


def test_ties_go_to_the_smaller_class():
    found = predictions.of_logits(np.array([[0, 3, 3], [1, 1, 1]], np.float32), np.array([2, 0]))
    assert found.top_NxK.tolist() == [[1, 2, 0], [0, 1, 2]]
    assert found.correct_N.tolist() == [False, True]


def test_log_odds_keep_apart_what_probabilities_would_tie():
    z = np.array([10.0, 11.0, 12.0, 30.0])
    logits = np.stack([z, np.zeros(4), np.zeros(4)], axis=1).astype(np.float32)
    p = np.exp(z) / (np.exp(z) + 2)
    assert len(set(p.astype(np.float16))) == 1
    for label in (0, 1):
        found = predictions.of_logits(logits, np.full(4, label))
        assert len(set(found.max_log_odds_N)) == 4
        assert (np.diff(found.max_log_odds_N) > 0).all()
        assert (np.diff(found.label_log_odds_N) * (1 if label == 0 else -1) > 0).all()


def test_huge_logits_stay_finite():
    logits = np.array([[1e30, 0], [-1e30, 1e30]], np.float32)
    found = predictions.of_logits(logits, np.array([0, 0]))
    assert found.max_log_odds_N.tolist() == pytest.approx([1e30, 2e30])
    assert found.label_log_odds_N.tolist() == pytest.approx([1e30, -2e30])


def test_other_logits_are_refused():
    logits, label = some()
    with pytest.raises(ValueError, match=r"shape \[49, C\], not \[50, 9\]"):
        predictions.of_logits(logits, label[1:])
    logits[3, 2] = np.inf
    with pytest.raises(ValueError, match="not finite"):
        predictions.of_logits(logits, label)


@pytest.mark.parametrize("classes", [2, 9])
def test_round_trip(classes, tmp_path):
    kept = predictions.of_logits(*some(classes=classes))
    predictions.save(tmp_path / "a.safetensors", kept)
    assert same(predictions.load(tmp_path / "a.safetensors"), kept)
    assert os.listdir(tmp_path) == ["a.safetensors"]


def test_a_sample_takes_19_bytes(tmp_path):
    size = 4000
    predictions.save(tmp_path / "a.safetensors", predictions.of_logits(*some(size)))
    assert 0 <= (tmp_path / "a.safetensors").stat().st_size - 19 * size < 1000


def test_a_write_that_is_cut_off_leaves_the_file_alone(tmp_path, monkeypatch):
    path = tmp_path / "a.safetensors"
    old, new = (predictions.of_logits(*some(seed=seed)) for seed in (0, 1))
    predictions.save(path, old)

    def cut_off(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(predictions.files.os, "replace", cut_off)
        with pytest.raises(KeyboardInterrupt):
            predictions.save(path, new)
    assert same(predictions.load(path), old)
    predictions.save(path, new)
    assert same(predictions.load(path), new)


def test_other_files_are_refused(tmp_path):
    path = tmp_path / "a.safetensors"
    predictions.save(path, predictions.of_logits(*some()))
    whole = path.read_bytes()
    for damaged in (whole[:-1], whole[:20], b""):
        path.write_bytes(damaged)
        with pytest.raises(ValueError, match=r"a\.safetensors was not written by ktjax"):
            predictions.load(path)
    path.write_bytes(safetensors_numpy.save({"weights": np.zeros(3)}))
    with pytest.raises(ValueError, match=r"a\.safetensors was not written by ktjax"):
        predictions.load(path)


def test_log_odds_of_an_earlier_version_are_refused(tmp_path):
    path, kept = tmp_path / "a.safetensors", predictions.of_logits(*some())
    for name in ("label_log_odds_N", "max_log_odds_N"):
        less = getattr(kept, name).astype(np.float16)
        predictions.save(path, kept._replace(**{name: less}))
        with pytest.raises(ValueError, match=r"a\.safetensors was written by an earlier .*delete"):
            predictions.load(path)
