"""Make `examples/quickstart.ipynb` from `examples/quickstart.py`, which is in keras.io's style.

    python docs/make_notebook.py
    cd examples && KERAS_BACKEND=torch jupyter execute --inplace quickstart.ipynb

The second command, of the package nbclient, adds the outputs. `hooks.py` makes the page of the
site from the notebook.

Text between triple quotes at the margin is a cell of Markdown, the rest is cells of code.
"""

import base64
import json
import pathlib
import re

SOURCE = pathlib.Path(__file__).parent.parent / "examples" / "quickstart.py"
NOTEBOOK = SOURCE.with_suffix(".ipynb")


def split(text):
    """Yield the kind of each cell, "markdown" or "code", and its source."""
    parts = re.split(r'^"""\n(.*?)^"""\n', text, flags=re.DOTALL | re.MULTILINE)
    for number, part in enumerate(parts):
        source = _header(part) if number == 1 else part.strip()
        if source:
            yield ("markdown" if number % 2 else "code"), source


def notebook(text):
    """Return the notebook of a page without outputs, as a dict."""
    cells = []
    for kind, source in split(text):
        cell = {"cell_type": kind, "id": f"cell-{len(cells)}", "metadata": {}}
        if kind == "code":
            cell |= {"execution_count": None, "outputs": []}
        cells.append({**cell, "source": source.splitlines(keepends=True)})
    kernel = {"display_name": "Python 3", "language": "python", "name": "python3"}
    metadata = {"kernelspec": kernel, "language_info": {"name": "python"}}
    return {"cells": cells, "metadata": metadata, "nbformat": 4, "nbformat_minor": 5}


def page(text):
    """Return the page of the site that a notebook's file makes, and its pictures by name."""
    lines, pictures = [], {}
    for cell in json.loads(text)["cells"]:
        source = "".join(cell["source"])
        lines.append(source if cell["cell_type"] == "markdown" else f"```python\n{source}\n```")
        for output in cell.get("outputs", ()):
            data = output.get("data", {})
            if "image/png" in data:
                name = f"quickstart-{len(pictures) + 1}.png"
                pictures[name] = base64.b64decode(data["image/png"])
                lines.append(f"![The picture that this cell draws]({name})")
            elif "text/html" in data:
                lines.append("".join(data["text/html"]))
            elif output["output_type"] == "stream" and output["name"] == "stdout":
                lines.append(f"```\n{''.join(output['text'])}```")
    return "\n\n".join(lines), pictures


def _header(text):
    """Return title and description of keras.io's header."""
    fields = dict(line.split(": ", 1) for line in text.strip().splitlines())
    return f"# {fields['Title']}\n\n{fields['Description']}"


if __name__ == "__main__":
    made = notebook(SOURCE.read_text(encoding="utf-8"))
    NOTEBOOK.write_text(json.dumps(made, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
