"""ktjax.bench on a few models: it runs, and its loop finds what the product does."""

import pytest

from ktjax.bench import __main__ as bench


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


@pytest.mark.parametrize("arguments", [[], ["pears"], ["pairs", "--models", "0"]])
def test_other_arguments_are_refused(arguments, capsys):
    with pytest.raises(SystemExit):
        bench.main(arguments)
    assert "error: " in capsys.readouterr().err
