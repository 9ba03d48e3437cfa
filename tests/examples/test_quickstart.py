"""The notebook is that of the page, runs, and shows what it prints now."""

import html.parser
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
        if shows and hasattr(namespace[last.value.id], "_repr_png_"):
            print("shown:", len(namespace[last.value.id]._repr_png_()))
        elif shows:
            print(namespace[last.value.id]._repr_html_())
"""


class Rows(html.parser.HTMLParser):
    """The cells of the rows of tables, but for norms, which follow the kernels that Keras drew."""

    def __init__(self, text):
        super().__init__()
        self.rows = []
        self.inside = False
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        if tag == "tr":
            self.rows.append([])
        self.inside = tag in ("td", "th")

    def handle_endtag(self, tag):
        self.inside = False

    def handle_data(self, data):
        if self.inside and not data.replace(".", "").replace(" ", "").isdigit():
            self.rows[-1].append(data)


@pytest.fixture(scope="module")
def cells():
    return json.loads(PAGE.with_suffix(".ipynb").read_text(encoding="utf-8"))["cells"]


def test_the_notebook_is_made_from_the_page(cells, monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "docs")
    import make_notebook

    made = make_notebook.notebook(PAGE.read_text(encoding="utf-8"))["cells"]
    sources = [(cell["cell_type"], "".join(cell["source"])) for cell in cells]
    assert sources == [(cell["cell_type"], "".join(cell["source"])) for cell in made], (
        "run the commands of docs/make_notebook.py"
    )
    assert sources[0][1].startswith("# Training")
    assert len(PAGE.read_text(encoding="utf-8").splitlines()) < 300


def test_the_notebook_has_outputs(cells):
    data = [
        output.get("data", {})
        for cell in cells
        if cell["cell_type"] == "code"
        for output in cell["outputs"]
    ]
    # Curves, products before and after, structures during training.
    assert sum("image/png" in output for output in data) == 3
    assert sum("text/html" in output for output in data) == 1


def test_the_notebook_prints_what_it_shows(cells, tmp_path):
    pytest.importorskip("sklearn")
    finished = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", RUN, PAGE.with_suffix(".ipynb")],
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
    assert finished.stdout.count("shown: ") == 2
    outputs = [output for cell in cells for output in cell.get("outputs", ())]
    tables = ["".join(x["data"]["text/html"]) for x in outputs if "text/html" in x.get("data", {})]
    assert Rows(finished.stdout).rows == Rows("".join(tables)).rows
    (printed,) = ("".join(output["text"]) for output in outputs if output.get("name") == "stdout")
    assert printed.startswith("logistic regression: ")
    assert printed.strip() in finished.stdout
