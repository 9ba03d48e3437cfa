"""What the last line of a notebook's cell shows."""

import html.parser
import io

import keras
import matplotlib.image
import pytest
from keras import layers

import keras_mimetic


class Tables(html.parser.HTMLParser):
    """The cells of each line of HTML tables; it raises for tags that do not match."""

    def __init__(self, text):
        super().__init__()
        self.open, self.lines = [], []
        self.feed(text)
        assert not self.open

    def handle_starttag(self, tag, attrs):
        self.open.append(tag)
        if tag == "tr":
            self.lines.append([])
        elif tag in ("td", "th"):
            self.lines[-1].append("")

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open and self.open[-1] in ("td", "th"):
            self.lines[-1][-1] += data


@pytest.fixture(scope="module")
def model():
    inputs = keras.Input((10, 16))
    x = layers.LayerNormalization()(inputs)
    x = inputs + layers.MultiHeadAttention(2, 8)(x, x)
    y = layers.LayerNormalization()(x)
    y = layers.Dense(64, activation="gelu", name="first")(y)
    gate = layers.Dense(64, activation="silu", name="gate")(x)
    gated = layers.Multiply()([gate, layers.Dense(64, name="up")(x)])
    return keras.Model(inputs, x + layers.Dense(16)(y) + layers.Dense(16)(gated))


def test_report(model):
    report = keras_mimetic.initialize(model, seed=0)
    assert repr(report) == "<Report: 6 weights given structure, 2 skipped; seed 0>"
    head, *lines = Tables(report._repr_html_()).lines
    assert head == ["weight", "structure", "norm before", "norm after", "note"]
    assert [line[0] for line in lines] == [row.path for row in report.rows]
    assert [line[4] for line in lines] == [row.note for row in report.rows]
    # The same cells as in print.
    for line, printed in zip(lines, str(report).splitlines()[2:], strict=True):
        assert [x for x in line if x] == [x.strip() for x in printed.split("  ") if x.strip()]


def test_measurements(model):
    measured = keras_mimetic.measure(model)
    assert repr(measured) == "<Measurements: 4 layers measured>"
    lines = Tables(measured._repr_html_()).lines
    paths = [line[0] for line in lines]
    for row in measured.rows:
        assert row.path in paths
    printed = str(measured)
    assert all(cell in printed for line in lines for cell in line)
    some = keras_mimetic.measure(model, rules={"gate|up": None})
    assert repr(some) == "<Measurements: 2 layers measured, 2 skipped>"
    assert "<p>gate  by the rule" in some._repr_html_()


def test_nothing_found():
    model = keras.Sequential([keras.Input((3,)), layers.Dense(2)])
    for shown in (keras_mimetic.initialize(model, seed=0), keras_mimetic.measure(model)):
        assert "were found" in repr(shown) or "was found" in repr(shown)
        assert Tables(shown._repr_html_()).lines == []


def test_names_of_layers_are_escaped():
    inputs = keras.Input((16,))
    x = layers.Dense(64, activation="gelu", name="<b>first & last")(inputs)
    model = keras.Model(inputs, layers.Dense(16)(x))
    report = keras_mimetic.initialize(model, seed=0)
    assert Tables(report._repr_html_()).lines[1][0] == "<b>first & last/kernel"


def test_a_figure_is_a_picture(model):
    figure = keras_mimetic.measure(model, "attention").plot()
    picture = matplotlib.image.imread(io.BytesIO(figure._repr_png_()))
    assert picture.std() > 0.05
    pyplot = pytest.importorskip("matplotlib.pyplot")
    assert not pyplot.get_fignums()
