"""The notebook is that of the page, and runs."""

import json
import os
import subprocess
import sys

import pytest
from paths import ROOT

PAGE = ROOT / "examples" / "quickstart.py"
# A notebook shows the value of a cell's last line: here it has to have a picture or a table.
RUN = """
import ast, json, sys

namespace = {}
for cell in json.load(open(sys.argv[1]))["cells"]:
    if cell["cell_type"] == "code":
        *body, last = ast.parse("".join(cell["source"])).body
        shows = isinstance(last, ast.Expr) and isinstance(last.value, ast.Name)
        body = ast.Module(body if shows else [*body, last], [])
        exec(compile(body, "cell", "exec"), namespace)
        if shows:
            print("shown:", len(namespace[last.value.id]._repr_png_()))
"""


def test_the_notebook_is_made_from_the_page(monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "docs")
    import make_notebook

    written = PAGE.with_suffix(".ipynb").read_text(encoding="utf-8")
    text = PAGE.read_text(encoding="utf-8")
    assert written == make_notebook.render(text), "run docs/make_notebook.py"
    cells = json.loads(written)["cells"]
    assert cells[0]["source"][0].startswith("# Training")
    assert sum(cell["cell_type"] == "code" for cell in cells) >= 6
    assert len(text.splitlines()) < 300


def test_the_notebook_runs(tmp_path):
    pytest.importorskip("sklearn")
    finished = subprocess.run(
        [sys.executable, "-c", RUN, PAGE.with_suffix(".ipynb")],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env={
            **os.environ,
            "PYTHONPATH": str(ROOT),
            "KERAS_MAX_EPOCHS": "2",
            "KERAS_MAX_STEPS_PER_EPOCH": "2",
        },
    )
    assert finished.returncode == 0, finished.stderr
    assert "24 weights given structure" in finished.stdout
    assert finished.stdout.count("shown: ") == 2
