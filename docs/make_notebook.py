"""Make `examples/quickstart.ipynb` from `examples/quickstart.py`, which is in keras.io's style.

The page of the site is made from it, too, by `hooks.py`.

    python docs/make_notebook.py

Text between triple quotes at the margin is a cell of Markdown, the rest is cells of code.
"""

import json
import pathlib
import re

SOURCE = pathlib.Path(__file__).parent.parent / "examples" / "quickstart.py"


def split(text):
    """Yield the kind of each cell, "markdown" or "code", and its source."""
    parts = re.split(r'^"""\n(.*?)^"""\n', text, flags=re.DOTALL | re.MULTILINE)
    for number, part in enumerate(parts):
        source = _header(part) if number == 1 else part.strip()
        if source:
            yield ("markdown" if number % 2 else "code"), source


def page(text):
    """Return the page of the site."""
    return "\n\n".join(
        source if kind == "markdown" else f"```python\n{source}\n```"
        for kind, source in split(text)
    )


def notebook(text):
    """Return the notebook of a page, as a dict."""
    cells = []
    for kind, source in split(text):
        cell = {"cell_type": kind, "id": f"cell-{len(cells)}", "metadata": {}}
        if kind == "code":
            cell |= {"execution_count": None, "outputs": []}
        cells.append({**cell, "source": source.splitlines(keepends=True)})
    kernel = {"display_name": "Python 3", "language": "python", "name": "python3"}
    metadata = {"kernelspec": kernel, "language_info": {"name": "python"}}
    return {"cells": cells, "metadata": metadata, "nbformat": 4, "nbformat_minor": 5}


def _header(text):
    """Return title and description of keras.io's header."""
    fields = dict(line.split(": ", 1) for line in text.strip().splitlines())
    return f"# {fields['Title']}\n\n{fields['Description']}"


def render(text):
    """Return the notebook's file."""
    return json.dumps(notebook(text), indent=1, ensure_ascii=False) + "\n"


if __name__ == "__main__":
    path = SOURCE.with_suffix(".ipynb")
    path.write_text(render(SOURCE.read_text(encoding="utf-8")), encoding="utf-8")
