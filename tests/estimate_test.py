"""What cannot be is refused before anything is allocated, with the estimate."""

import pytest
import small_models
from small_jobs import load_config, pretraining

from ktjax.data import pipeline
from ktjax.experiment import estimate
from ktjax.jobs import pretrain
from ktjax.settings.pretrain import Pretrain


def test_needs():
    config = load_config("pretrain", None, batch_size=8, steps_per_dispatch=3, optimizer="adamw")
    model = small_models.make("a")
    found = estimate.of_training(Pretrain.read(config), 80, pipeline.Reading(10), [model])
    assert found.steps == config.total_steps
    assert found.batches == 2 * 8 * 3 * 10 * 10 * 3
    # Parameters, two moments, and gradients or the export: 4 bytes each.
    assert found.state == found.disk == 4 * 4 * model.num_parameters()


@pytest.mark.parametrize(
    ("needs", "message"),
    [
        (dict(batches=900, state=200), r"900 B for two batches of images of 7 .* 1 kB of memory"),
        (dict(disk=5000), r"5 kB of disk, but only 2 kB are free for '.*new'\."),
        (dict(batches=700, state=200, disk=2000), None),
    ],
)
def test_what_is_too_much(needs, message, tmp_path, monkeypatch):
    monkeypatch.setattr(estimate, "_memory", lambda: 1000)
    monkeypatch.setattr(estimate, "_free", lambda folder: 2000)
    needs = estimate.Needs(**dict(steps=1, batches=0, state=0, disk=0) | needs)
    if message is None:
        estimate.check(needs, pipeline.Reading(7), tmp_path / "new")
        return
    with pytest.raises(ValueError, match=message):
        estimate.check(needs, pipeline.Reading(7), tmp_path / "new")


def test_devices_with_a_memory_of_their_own(tmp_path, monkeypatch):
    monkeypatch.setattr(estimate, "_device_memory", lambda: 1000)
    needs = estimate.Needs(steps=1, batches=0, state=10**6, disk=0)
    with pytest.raises(ValueError, match="1 MB for what trains, .* devices have 1 kB each"):
        estimate.check(needs, pipeline.Reading(7), tmp_path)


def test_jobs_ask(images, refused):
    """Terabytes a batch: nothing is tried."""
    message = r"This needs at least [\d.,]+ [TP]B for two batches of images of 16000 pixels"
    most = dict(image_size=16000, eval_batch_size=2**24)
    config = pretraining(images, names=("tiny_mlp_narrow",), **most)
    refused(pretrain.run, config, message)
