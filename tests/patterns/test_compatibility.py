"""The sites of the models in tests/helpers/zoo.py agree with the table in the docs."""

import re

import pytest
import zoo


@pytest.mark.parametrize("name", zoo.installed())
def test_every_backend_gives_the_table_of_the_docs(name):
    """A line differs if more or fewer sites are found; `zoo.py` writes the table."""
    assert zoo.row(name) in zoo.TABLE.read_text().splitlines()


def test_models_of_every_kind_are_tried():
    assert len(zoo.installed()) > 10


def test_nearly_all_layers_of_the_models_are_listed():
    numbers = [
        tuple(map(int, three))
        for three in re.findall(r"(\d+) / (\d+) / (\d+)", zoo.TABLE.read_text())
    ]
    exist, listed, written = (sum(column) for column in zip(*numbers, strict=True))
    assert listed >= 0.99 * exist
    # For inverted residuals, gates and cross-attention no structure is known.
    assert written >= 0.75 * exist
