"""A Matplotlib figure that notebooks show without pyplot."""

import io

import matplotlib.figure


class Figure(matplotlib.figure.Figure):
    """`matplotlib.figure.Figure`; as the last line of a notebook's cell it is a picture.

    Notebooks know pictures of plain figures only once pyplot has chosen a backend, and pyplot
    keeps every figure that it makes.
    """

    def _repr_png_(self) -> bytes:
        picture = io.BytesIO()
        self.savefig(picture, format="png")
        return picture.getvalue()
