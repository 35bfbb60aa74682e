import ast
import importlib
import json
import re
import sys
import types
from pathlib import Path

import numpy as np
import pytest

from ktjax import data

ROOT = Path(__file__).parents[1]
COLABS = sorted((ROOT / "colabs").glob("*.ipynb"))


def read_cells(path):
    return json.loads(path.read_text(encoding="utf-8"))["cells"]


@pytest.mark.parametrize("path", COLABS, ids=lambda path: path.name)
def test_cells_import_what_there_is(path, monkeypatch):
    """Without running them: what they import exists, and each cell is Python."""
    monkeypatch.syspath_prepend(ROOT)
    for cell in read_cells(path):
        if cell["cell_type"] != "code":
            continue
        lines = "".join(cell["source"]).splitlines()
        tree = ast.parse("\n".join(line for line in lines if not line.startswith(("!", "%"))))
        for node in ast.walk(tree):
            if isinstance(node, ast.ImportFrom) and node.module.startswith(("ktjax", "configs")):
                module = importlib.import_module(node.module)
                for alias in node.names:
                    found = hasattr(module, alias.name)
                    assert found or importlib.import_module(f"{node.module}.{alias.name}")


@pytest.mark.full
def test_quickstart_runs_from_cell_to_cell(tmp_path, monkeypatch, capsys):
    path = ROOT / "colabs" / "quickstart.ipynb"
    cells = ["".join(cell["source"]) for cell in read_cells(path) if cell["cell_type"] == "code"]
    workdir, shown = tmp_path / "workdir", []
    display = types.ModuleType("IPython.display")
    display.Image, display.display = (lambda name: Path(name).read_bytes()), shown.append
    monkeypatch.setitem(sys.modules, "IPython.display", display)
    monkeypatch.chdir(path.parent)
    monkeypatch.syspath_prepend(ROOT)
    quickstart = importlib.import_module("configs.quickstart")
    full_config, load_any = quickstart.get_config, data.load

    def get_config():  # the same for two objectives on few images
        config = full_config("runlocal")
        config.objectives = {name: config.objectives[name] for name in ("kl", "kl_dp")}
        return config

    def load(name, **options):
        loaded = load_any(name, **options)
        return loaded._replace(validation=loaded.validation.select(np.arange(0, 16_000, 16)))

    monkeypatch.setattr(quickstart, "get_config", get_config)
    monkeypatch.setattr(data, "load", load)
    namespace = {"__name__": "__main__"}
    for number, code in enumerate(cells):
        own = code.replace("/tmp/ktjax_colab", str(workdir))
        exec(compile(own, f"{path.name}, code cell {number}", "exec"), namespace)
    printed = capsys.readouterr().out
    student, weaker, stronger = map(float, re.findall(r"^glyphs/\w+: (.*) %", printed, re.M))
    assert 40 < weaker < student < stronger
    flips = [float(percent) for percent in re.findall(r"rho_pos (.*?) %", printed)]
    assert 4 < flips[0] < flips[1] < 30
    assert [run["run"] for run in namespace["results"]["runs"]] == [
        "kl-tiny_mixer-1",
        "kl_dp-tiny_mixer-1",
    ]
    assert len(shown) == 3 and all(image.startswith(b"\x89PNG") for image in shown)
    assert namespace["better"].num_parameters() == 204_772


@pytest.mark.parametrize("path", COLABS, ids=lambda path: path.name)
def test_nothing_that_was_printed_is_kept(path):
    for cell in read_cells(path):
        assert not cell.get("outputs")


@pytest.mark.full
def test_a_model_of_ones_own_learns_from_cell_to_cell(tmp_path, monkeypatch, capsys):
    path = ROOT / "colabs" / "own_model.ipynb"
    monkeypatch.chdir(path.parent)
    monkeypatch.syspath_prepend(ROOT)
    namespace = {"__name__": "__main__"}
    for number, cell in enumerate(read_cells(path)):
        if cell["cell_type"] == "code":
            code = "".join(cell["source"]).replace("/tmp/ktjax_own", str(tmp_path))
            exec(compile(code, f"{path.name}, cell {number}", "exec"), namespace)
    (run,) = namespace["results"]["runs"]
    assert run["accuracy_before"] < 50 and run["accuracy_after"] > 80
    printed = capsys.readouterr().out
    for name in ("bars", "checks", "stripes"):
        assert f"{name}: {name} (" in printed
