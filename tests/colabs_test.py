import ast
import importlib
import json
from pathlib import Path

import pytest

COLABS = sorted((Path(__file__).parents[1] / "colabs").glob("*.ipynb"))


@pytest.mark.parametrize("path", COLABS, ids=lambda path: path.name)
def test_cells_parse_and_what_they_import_is_there(path):
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    codes = ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"]
    assert 0 < len(codes) <= 20
    for node in ast.walk(ast.parse("\n".join(codes))):
        if isinstance(node, ast.ImportFrom) and node.module.startswith("ktjax"):
            for alias in node.names:
                module = importlib.import_module(node.module)
                if not hasattr(module, alias.name):
                    importlib.import_module(f"{node.module}.{alias.name}")


@pytest.mark.parametrize("path", COLABS, ids=lambda path: path.name)
def test_nothing_that_was_printed_is_kept(path):
    for cell in json.loads(path.read_text(encoding="utf-8"))["cells"]:
        assert not cell.get("outputs")
