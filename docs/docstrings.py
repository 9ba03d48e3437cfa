"""Griffe: examples in Keras's docstrings, which stand at the margin, as blocks of code."""

import griffe


class Examples(griffe.Extension):
    """A Griffe extension that fences lines with Python's prompt before docstrings are parsed."""

    def on_object(self, *, obj, loader, **kwargs):
        """Rewrite the docstring of a module, class, function or attribute."""
        if obj.docstring:
            obj.docstring.value = fenced(obj.docstring.value)


def fenced(text):
    """Return a docstring with its examples fenced, prompts removed and outputs as comments."""
    lines, inside = [], False
    for line in text.split("\n"):
        if not inside and line.startswith(">>> "):
            lines.append("```python")
            inside = True
        if inside and not line:
            lines.append("```")
            inside = False
        if inside:
            is_code = line.startswith((">>> ", "... "))
            lines.append(line[4:] if is_code else "" if line == "..." else f"# {line}")
        else:
            lines.append(line)
    return "\n".join([*lines, "```"] if inside else lines)
