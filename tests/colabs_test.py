import ast
import importlib
import json
import re
import socket
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
COLABS = sorted((ROOT / "colabs").glob("*.ipynb"))
LARGEST = 500_000  # bytes of a notebook, so that it is shown on the web
# Of machines and people, and of what went wrong.
NOT_FOR_READERS = re.compile(
    r"/(root|home|Users|opt|work|content|mnt)/|Traceback|Error\b|Warning\b"
)


def read_cells(path):
    return json.loads(path.read_text(encoding="utf-8"))["cells"]


def outputs_of(cells):
    """What each code cell prints and shows, in kinds."""

    def kinds(cell):
        found = [sorted(one.get("data", ("printed",))) for one in cell["outputs"]]
        # What is printed comes in parts, whose number depends on when a line is flushed.
        return [
            kind
            for kind, before in zip(found, [None, *found], strict=False)
            if kind != before or kind != ["printed"]
        ]

    return [kinds(cell) for cell in cells if cell["cell_type"] == "code"]


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


@pytest.mark.parametrize("path", COLABS, ids=lambda path: path.name)
def test_what_is_kept_reads_well_on_the_web(path):
    """Every cell was run once, in order, and what it printed and showed is there."""
    text = path.read_text(encoding="utf-8")
    cells = read_cells(path)
    codes = [cell for cell in cells if cell["cell_type"] == "code"]
    assert len(cells) <= 20 and len(text) < LARGEST
    assert [cell["execution_count"] for cell in codes] == list(range(1, len(codes) + 1))
    assert any(cell["outputs"] for cell in codes)
    for cell in codes:
        for output in cell["outputs"]:
            assert output["output_type"] != "error" and output.get("name") != "stderr"
            printed = "".join(output.get("text", ()))
            shown = "".join(output.get("data", {}).get("text/plain", ()))
            for line in (*printed.splitlines(), shown):
                assert not NOT_FOR_READERS.search(line) and socket.gethostname() not in line, line


@pytest.mark.parametrize("path", COLABS, ids=lambda path: path.name)
def test_every_notebook_opens_in_colab_and_installs_the_package(path):
    first, install, *_ = ("".join(cell["source"]) for cell in read_cells(path))
    (address,) = re.findall(r"colab-badge\.svg\)\]\((.*?)\)", first)
    start, end = "https://colab.research.google.com/github/", f"/blob/main/colabs/{path.name}"
    repository = address.removeprefix(start).removesuffix(end)
    assert address == f"{start}{repository}{end}"
    assert f'"git+https://github.com/{repository}"' in install


@pytest.mark.full
@pytest.mark.parametrize("path", COLABS, ids=lambda path: path.name)
def test_it_runs_from_cell_to_cell(path, tmp_path):
    colabs = pytest.importorskip("colabs", exc_type=ImportError)  # asks for nbclient
    found = colabs.execute(path, tmp_path)["cells"]
    assert outputs_of(found) == outputs_of(read_cells(path))
