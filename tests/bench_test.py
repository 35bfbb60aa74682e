"""ktjax.bench on little: it runs, and what it compares with finds what the product does."""

import json
import os
import re
import subprocess
import sys

import numpy as np
import pytest
import xla

from ktjax import load_model
from ktjax.bench import __main__ as bench
from ktjax.bench import data, guard, quickstart


def test_pairs(capsys):
    sizes = {"models": 5, "samples": 300, "classes": 7, "naive_pairs": 30}
    arguments = ["pairs", *(f"--{name}={value}" for name, value in sizes.items())]
    found = bench.main(arguments)
    assert found["ordered_pairs"] == 20
    assert found["largest_difference"] < 1e-9 and found["flips_differ"] == 0
    for name in ("scalars_first_s", "scalars_second_s", "per_class_s", "naive_times_as_long"):
        assert found[name] > 0
    assert 0 < found["memory_before_mb"] <= found["memory_all_mb"] < 1e5
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == list(found)


def test_data(capsys):
    sizes = {"images": 5, "photos": 2, "batch_size": 3, "rounds": 2}
    found = bench.main(["data", *(f"--{name}={value}" for name, value in sizes.items())])
    assert 60 < found["kilobytes_mean"] < 140  # ImageNet's have 110
    for transform in ("eval", "train"):
        speed = found[f"{transform}_ktjax_images_per_s"]
        assert speed == pytest.approx(
            found["cores"] * found[f"{transform}_ktjax_images_per_s_and_core"]
        )
        for other in ("torch", "tf_data"):
            # Neither is needed: then it says so.
            if "not measured: " not in found.get(f"{transform}_{other}", ""):
                ratio = speed / found[f"{transform}_{other}_images_per_s"]
                assert found[f"{transform}_times_{other}"] == pytest.approx(ratio)
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == list(found)


def test_photos_have_the_spectrum_of_photographs():
    image = data.photo(np.random.default_rng(0), height=192, width=256)
    assert image.dtype == np.uint8 and image.shape == (192, 256, 3)
    spectrum = np.abs(np.fft.rfft2(image.mean(axis=2)))
    frequency = np.hypot(np.fft.fftfreq(192)[:, None], np.fft.rfftfreq(256)[None])
    bands = [(spectrum[(frequency > f) & (frequency <= 2 * f)] ** 2).mean() for f in (0.02, 0.16)]
    slope = np.log(bands[1] / bands[0]) / 2 / np.log(8)
    assert -1.4 < slope < -0.8  # of photographs -1.2 to -0.9


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["pears"],
        ["pairs", "--models", "0"],
        ["data", "--rounds", "0"],
        ["step", "--student=resnet19", "--teachers=resnet50"],
    ],
)
def test_other_arguments_are_refused(arguments, capsys):
    with pytest.raises(SystemExit):
        bench.main(arguments)
    assert "error: " in capsys.readouterr().err


PAIR = ["--student=glyphs/tiny_mlp_narrow", "--teachers=glyphs/tiny_mlp+glyphs/tiny_mlp_narrow"]


@pytest.mark.full
def test_step(tmp_path, capsys):
    file = tmp_path / "ratios.json"
    quick = ["--batch_size=8", "--rounds=2", "--seconds=0", f"--json={file}", "--torch=lazy"]
    found = bench.main(["step", *PAIR, *quick, "--library"])
    parts = ("part_student_s", "part_initial_s", "part_teacher_1_s", "part_teacher_2_s")
    assert all(found[name] > 0 for name in (*parts, "compile_first_s", "compile_again_s", "gflop"))
    assert found["images_per_s"] == pytest.approx(8 / found["step_s"])
    assert found["donated_percent"] >= 100
    assert 0 < found["input_wait_s"] < 1
    assert all(found[f"ratio_{name}"] > 0 for name in ("stored", "library"))
    # Two passes of the student with a gradient, one without, and the teachers'.
    narrow, wide = 2 * 60_964 * 8 / 1e9, 2 * 204_772 * 8 / 1e9
    assert found["gflop"] == pytest.approx(5 * narrow + wide, rel=0.25)
    assert found["torch_lazy"] == "not measured: 'lazy' is not one of eager, channels_last, compile"
    assert "torch_lazy" in capsys.readouterr().out

    kept = json.loads(file.read_text())
    assert [numbers["ratio_parts"] for numbers in kept.values()] == [found["ratio_parts"]]
    assert bench.main(["guard", str(file), f"--kept={file}"])["worse"] == 0
    for numbers in kept.values():
        numbers["ratio_parts"] /= 1.2
    stricter = tmp_path / "stricter.json"
    stricter.write_text(json.dumps(kept))
    with pytest.raises(SystemExit, match=r"worse by more than 15%:\n.*batch 8.*ratio_parts"):
        bench.main(["guard", str(file), f"--kept={stricter}"])
    stricter.write_text("{}")
    with pytest.raises(SystemExit, match="no pair in common"):
        bench.main(["guard", str(file), f"--kept={stricter}"])


@pytest.mark.full
def test_a_step_on_two_devices():
    command = [sys.executable, "-m", "ktjax.bench", "step", *PAIR]
    command += ["--rounds=1", "--seconds=0", "--torch="]

    def run(batch_size):
        return subprocess.run(
            [*command, f"--batch_size={batch_size}"],
            env=os.environ | {"XLA_FLAGS": xla.flags(2)},
            capture_output=True,
            text=True,
        )

    done = run(8)
    assert done.returncode == 0 and "step_s" in done.stdout, done.stderr
    assert "error: --batch_size=7: 2 devices cannot share it." in run(7).stderr


def test_other_ratios_than_those_kept_are_not_compared():
    found = {"a": {"ratio_parts": 2.0, "ratio_eager": 1.0, "step_s": 3.0}, "b": {"ratio_parts": 1}}
    assert guard.compare(found, {"a": {"ratio_parts": 1.0, "step_s": 1.0}}) == {
        "a: ratio_parts": (2.0, 1.0)
    }


def test_what_is_kept_and_not_measured_is_named(tmp_path, capsys):
    """Without torch, with another variant of it, or of one pair alone."""
    kept = {
        "a": {"ratio_parts": 1.0, "ratio_eager": 1.0, "ratio_compile": 1.0, "torch_eager_s": 1.0},
        "b": {"ratio_parts": 1.0},
    }
    found = {"a": {"ratio_parts": 1.1, "torch_eager": "not measured: no torch"}}
    assert guard.left_out(kept, kept) == []
    assert guard.left_out(found, kept) == ["a: ratio_eager", "a: ratio_compile", "b"]
    for name, numbers in (("kept", kept), ("found", found)):
        (tmp_path / name).write_text(json.dumps(numbers))
    arguments = ["guard", str(tmp_path / "found"), f"--kept={tmp_path / 'kept'}"]
    assert bench.main(arguments) == {
        "a: ratio_parts": "1.100, kept 1.000",
        **dict.fromkeys(["a: ratio_eager", "a: ratio_compile", "b"], "not measured"),
        **{"worse": 0, "not_checked": "3 of the kept, named above"},
    }
    assert capsys.readouterr().out.splitlines()[-1].startswith("not_checked")
    found["a"]["ratio_parts"] = 1.2
    (tmp_path / "found").write_text(json.dumps(found))
    with pytest.raises(SystemExit, match="worse by more than 15%:\n  a: ratio_parts: 1.200, kept"):
        bench.main(arguments)


def test_the_kept_ratios_are_no_worse_than_themselves():
    found = bench.main(["guard", str(guard.KEPT)])
    assert found.pop("worse") == 0 and "not_checked" not in found
    assert sum("ratio_eager" in name for name in found) == 13


def test_checkpoint(tmp_path):
    file, folder = tmp_path / "saving.json", tmp_path / "saved"
    file.write_text('{"resnet50": {}}')
    sizes = ["--student=test_resnet", "--rounds=1", f"--folder={folder}", f"--json={file}"]
    found = bench.main(["checkpoint", *sizes])
    assert found["first_blocked_s"] > 0 and found["first_blocked_s"] != found["blocked_s"]
    assert json.loads(file.read_text()) == {"resnet50": {}, "test_resnet": found}
    assert 0 < found["blocked_s"] < found["written_s"] and found["restored_s"] > 0
    megabytes = 2 * 4 * found["parameters"] / 1e6  # parameters and momentum, in float32
    assert 0.9 * megabytes < found["checkpoint_mb"] < 1.3 * megabytes
    assert not list(folder.iterdir())


@pytest.mark.full
def test_quickstart(tmp_path, capsys):
    file = tmp_path / "waits.json"
    found = bench.main(["quickstart", "--config=quickstart:runlocal", f"--json={file}"])
    assert json.loads(file.read_text()) == found
    for start in ("first", "second"):
        seconds = {name: found[f"{start}_{name}_s"] for name in quickstart.PHASES}
        assert sum(seconds.values()) == pytest.approx(found[f"{start}_until_report_s"], abs=0.1)
        assert all(seconds[name] > 0 for name in quickstart.PHASES)
        work = seconds["training"] + seconds["evaluation"]
        assert found[f"{start}_rest_s"] == pytest.approx(sum(seconds.values()) - work)
        assert found[f"{start}_until_first_step_s"] < found[f"{start}_until_report_s"]
    assert found["second_compiling_s"] < found["first_compiling_s"]
    with pytest.raises(SystemExit):
        bench.main(["quickstart", "--", "--config.total_epoch=1"])
    assert re.search("error: The job failed: .*total_epoch", capsys.readouterr().err)


@pytest.mark.full
def test_the_same_step_in_torch():
    from ktjax.bench.in_torch import tiny  # needs torch

    for name, build in tiny.NETWORKS.items():
        model = load_model(f"glyphs/{name}")
        network = build(len(model.classes), size=model.input.size[0])
        assert sum(p.numel() for p in network.parameters()) == model.num_parameters()
    found = bench.main(["step", *PAIR, "--batch_size=8", "--rounds=1", "--seconds=0"])
    assert found["ratio_eager"] == pytest.approx(found["step_s"] / found["torch_eager_s"])
    ratio = found["memory_mb"] / found["torch_eager_memory_mb"]
    assert found["ratio_memory"] == pytest.approx(ratio) and 0.5 < ratio < 5


@pytest.mark.full
def test_memory_of_a_step_in_torch():
    import torch

    from ktjax.bench.in_torch import memory

    held = torch.zeros(250_000)  # 1 MB

    def step():
        for megabytes in (8, 4):
            torch.ones(250_000 * megabytes).sum().item()  # freed at once

    assert memory.peak_mb(step, [held, held], on_gpu=False) == pytest.approx(9, abs=0.01)


@pytest.mark.full
def test_a_step_of_an_imported_model():
    pytest.importorskip("timm")
    sizes = ["--batch_size=2", "--rounds=1", "--seconds=0"]
    found = bench.main(["imported", "--architecture=test_resnet", *sizes])
    assert found["ratio_native"] == pytest.approx(found["imported_s"] / found["native_s"])
    assert found["ratio_torch"] == pytest.approx(found["imported_s"] / found["torch_s"])
