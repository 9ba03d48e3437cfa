"""What holds for every model: properties of models from a grammar."""

import hashlib
import json
import random
import subprocess
import sys
from unittest import mock

import generated
import hypothesis
import keras
import numpy as np
import paths
import pytest
from arrays import array
from hypothesis import strategies as st

import keras_mimetic

pytestmark = pytest.mark.one_backend
BLOCKS = st.tuples(
    st.sampled_from(generated.KINDS),
    st.integers(1, 12),
    st.sampled_from(generated.NORMS),
    st.booleans(),
    st.booleans(),
)
MODELS = st.tuples(
    st.sampled_from(generated.STYLES),
    st.integers(1, 2),
    st.integers(1, 5),
    st.sampled_from(generated.POLICIES),
    st.lists(BLOCKS, min_size=1, max_size=3),
)
# Each model with a digest of its weights, for the last test.
SEEN = {}


def weights(model):
    return [array(variable) for variable in model.variables]


def assert_equal(some, others):
    for a, b in zip(some, others, strict=True):
        np.testing.assert_array_equal(a, b)


def initialized(description):
    """Return a model that `initialize` has written, and a digest of its weights."""
    keras.utils.set_random_seed(0)
    model = generated.make(*description)
    keras_mimetic.initialize(model, seed=0)
    return model, hashlib.sha256(b"".join(w.tobytes() for w in weights(model))).hexdigest()


def rows(report):
    return [(r.layer_path, r.structure, r.shape, r.written, r.norm_after) for r in report.rows]


@hypothesis.settings(max_examples=40)
@hypothesis.given(MODELS)
def test_invariants(tmp_path_factory, description):
    keras.utils.set_random_seed(0)
    model = generated.make(*description)
    keras.layers.Dense(1)
    number = int(keras.layers.Dense(1).name.split("_")[-1])
    before, state = weights(model), random.getstate()

    # A dry run changes nothing.
    dry = keras_mimetic.initialize(model, seed=0, dry_run=True)
    keras_mimetic.measure(model)
    assert_equal(before, weights(model))
    assert random.getstate() == state
    assert int(keras.layers.Dense(1).name.split("_")[-1]) == number + 1

    # Nor does an error, whether before or while weights are written.
    with pytest.raises(ValueError, match="matches no weight"):
        keras_mimetic.initialize(model, seed=0, rules={"no such weight": None})
    assign, count = keras.Variable.assign, len({row.path for row in dry.written})
    if count:
        calls = iter([*[False] * (count - 1), True])

        def fail(variable, values):
            if next(calls, False):
                raise MemoryError
            return assign(variable, values)

        with mock.patch.object(keras.Variable, "assign", fail), pytest.raises(MemoryError):
            keras_mimetic.initialize(model, seed=0)
    assert_equal(before, weights(model))

    # Only what the report says is written, with the norms that it says, and once.
    report = keras_mimetic.initialize(model, seed=0)
    assert rows(report) == rows(dry)
    written = {row.path for row in report.written}
    for variable, values in zip(model.variables, before, strict=True):
        if variable.path not in written:
            np.testing.assert_array_equal(array(variable), values)
    for row in report.written:
        found = [v for v in model.variables if v.path == row.path and tuple(v.shape) == row.shape]
        norms = [np.linalg.norm(array(variable)) for variable in found]
        assert not norms or np.isclose(norms, row.norm_after, rtol=1e-3).any()
    after = weights(model)
    keras_mimetic.initialize(model, seed=0)
    for a, b in zip(after, weights(model), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)

    # The model still works, and is treated equally when it has been saved and loaded.
    width = description[1] * description[2]
    x = np.random.default_rng(0).normal(size=(2, generated.LENGTH, width))
    assert np.isfinite(array(model(x.astype("float32")))).all()
    path = tmp_path_factory.getbasetemp() / "model.keras"
    model.save(path)
    loaded = keras.saving.load_model(path)
    assert_equal(weights(model), weights(loaded))
    again = [rows(keras_mimetic.initialize(m, seed=1, dry_run=True)) for m in (model, loaded)]
    assert again[0] == again[1]
    if len(SEEN) < 15:
        SEEN[json.dumps(description)] = initialized(description)[1]


PROGRAM = """
import json, sys
sys.path[:0] = json.loads(sys.argv[1])
import test_generated
for description in json.loads(sys.argv[2]):
    print(test_generated.initialized(json.loads(description))[1])
"""


def test_another_process_gives_the_same_weights():
    if not SEEN:
        pytest.skip("test_invariants has seen no models")
    folders = [str(paths.TESTS / "calls"), str(paths.HELPERS)]
    arguments = [json.dumps(folders), json.dumps([*SEEN])]
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", PROGRAM, *arguments], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == [*SEEN.values()]
