import importlib.util

import keras
import pytest
import scripts

import state_space
from keras_mimetic.layers import MimeticStateSpace
from lib.state_space_layers import functions, mixer

SIZES = (
    *("--lengths", "16", "32", "--width", "32", "--state-dim", "8", "--head-dim", "16"),
    *("--batch", "2", "--repeats", "2", "--their-chunks", "8", "16"),
)
TORCH = keras.backend.backend() == "torch"
TRANSFORMERS = TORCH and importlib.util.find_spec("transformers") is not None


def build():
    layer = MimeticStateSpace(8, 16, seed=0)
    layer.build((None, None, 32))
    return layer


@pytest.mark.one_backend
def test_times_of_each_length():
    finished = scripts.run("benchmarks/state_space.py", *SIZES)
    assert finished.returncode == 0, finished.stderr
    header, table = finished.stdout.split("\n\n")
    assert header.startswith("State space, width 32, state_dim 8, head_dim 16, batch 2, ")
    assert ("beside transformers" in header) == TRANSFORMERS
    rows = [[cell.strip() for cell in row.split("|")[1:-1]] for row in table.splitlines()[2:]]
    # Two lengths, forward and training step, two clocks, and each chunk size.
    assert len(rows) == 8 * (2 if TRANSFORMERS else 1)
    for what, ours, beside, theirs, ratio, *_ in rows:
        assert what.startswith(("forward, length ", "training step, length "))
        assert float(ours.split()[0]) > 0
        assert bool(beside) == bool(theirs) == bool(ratio) == TRANSFORMERS


def test_functions_of_the_layer():
    layer, x = build(), state_space.inputs(5, state_space.parse(SIZES))
    made = functions(layer)
    assert made["forward"](x).shape == (2, 5, 32)
    shapes = sorted(tuple(gradient.shape) for gradient in made["training step"](x))
    assert shapes == sorted(tuple(weight.shape) for weight in layer.trainable_variables)


def test_layers_that_differ_are_not_compared():
    layer, x = build(), state_space.inputs(5, state_space.parse(SIZES))
    ours = functions(layer)
    state_space.check_equal(ours, {"the same": functions(layer)}, x)
    larger = {"forward": lambda x: 1.001 * ours["forward"](x)}
    with pytest.raises(AssertionError, match="larger"):
        state_space.check_equal(ours, {"larger": larger}, x)


@pytest.mark.skipif(not TRANSFORMERS, reason="without transformers")
def test_the_layer_of_transformers_has_equal_outputs():
    layer, x = build(), state_space.inputs(20, state_space.parse(SIZES))
    theirs = functions(mixer(layer, 8))
    state_space.check_equal(functions(layer), {"theirs": theirs}, x)
    assert len(theirs["training step"](x)) == len(layer.trainable_variables)
