"""A Matplotlib figure that notebooks display without pyplot."""

import io

import matplotlib.figure


class Figure(matplotlib.figure.Figure):
    """A `matplotlib.figure.Figure` that a notebook cell displays as a picture.

    Notebooks display plain figures only once pyplot has chosen a backend, and pyplot keeps
    every figure that it creates in memory.
    """

    def _repr_png_(self) -> bytes:
        picture = io.BytesIO()
        self.savefig(picture, format="png")
        return picture.getvalue()
