"""ktjax.bench on little: it runs, and what it compares with finds what the product does."""

import numpy as np
import pytest

from ktjax.bench import __main__ as bench
from ktjax.bench import data


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
    "arguments", [[], ["pears"], ["pairs", "--models", "0"], ["data", "--rounds", "0"]]
)
def test_other_arguments_are_refused(arguments, capsys):
    with pytest.raises(SystemExit):
        bench.main(arguments)
    assert "error: " in capsys.readouterr().err
