"""Make `examples/quickstart.ipynb` from `examples/quickstart.py`, which is in keras.io's style.

    python docs/make_notebook.py

Text between triple quotes at the margin is a cell of Markdown, the rest is cells of code.
"""

import json
import pathlib
import re

SOURCE = pathlib.Path(__file__).parent.parent / "examples" / "quickstart.py"


def notebook(text):
    """Return the notebook of a page, as a dict."""
    cells = []
    parts = re.split(r'^"""\n(.*?)^"""\n', text, flags=re.DOTALL | re.MULTILINE)
    for number, part in enumerate(parts):
        kind = "markdown" if number % 2 else "code"
        source = _header(part) if number == 1 else part.strip()
        if not source:
            continue
        cell = {"cell_type": kind, "id": f"cell-{len(cells)}", "metadata": {}}
        if kind == "code":
            cell |= {"execution_count": None, "outputs": []}
        cells.append({**cell, "source": source.splitlines(keepends=True)})
    kernel = {"display_name": "Python 3", "language": "python", "name": "python3"}
    metadata = {"kernelspec": kernel, "language_info": {"name": "python"}}
    return {"cells": cells, "metadata": metadata, "nbformat": 4, "nbformat_minor": 5}


def _header(text):
    """Title and description of keras.io's header."""
    fields = dict(line.split(": ", 1) for line in text.strip().splitlines())
    return f"# {fields['Title']}\n\n{fields['Description']}"


def render(text):
    """Return the text of the notebook file."""
    return json.dumps(notebook(text), indent=1, ensure_ascii=False) + "\n"


if __name__ == "__main__":
    path = SOURCE.with_suffix(".ipynb")
    path.write_text(render(SOURCE.read_text(encoding="utf-8")), encoding="utf-8")
