"""Executes the notebooks in colabs/, and keeps what they print and show: `python tests/colabs.py`.

What goes to stderr, progress bars and warnings, is not kept. Workdirs are made anew in a folder of
their own, which is called /tmp in what is kept, as in the notebooks.
"""

import json
import os
import sys
import tempfile
from pathlib import Path

import nbclient
import nbformat

ROOT = Path(__file__).parents[1]
COLABS = sorted((ROOT / "colabs").glob("*.ipynb"))


def execute(path, folder):
    """The notebook with the outputs of its cells; raises CellExecutionError at the first error."""
    notebook = nbformat.read(path, as_version=4)
    sources = [cell.source for cell in notebook.cells]
    for cell in notebook.cells:
        cell.source = cell.source.replace("/tmp/", f"{folder}/")
    client = nbclient.NotebookClient(
        notebook,
        timeout=900,
        kernel_name="python3",
        resources={"metadata": {"path": str(path.parent)}},
        record_timing=False,
    )
    client.execute(env=os.environ | {"PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu"})
    for cell, source in zip(notebook.cells, sources, strict=True):
        cell.source = source
        if cell.cell_type == "code":
            cell.outputs = [one for one in cell.outputs if one.get("name") != "stderr"]
    text = nbformat.writes(notebook).replace(str(folder), "/tmp")
    return json.loads(text)


def main(names):
    for path in COLABS:
        if names and path.stem not in names:
            continue
        with tempfile.TemporaryDirectory() as folder:
            notebook = execute(path, Path(folder))
        text = json.dumps(notebook, indent=1, ensure_ascii=False)
        path.write_text(f"{text}\n", encoding="utf-8")
        print(f"{path.name}: {path.stat().st_size / 1000:.0f} kB")


if __name__ == "__main__":
    main(sys.argv[1:])
