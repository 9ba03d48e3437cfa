import json
import os

import keras
import numpy as np
import pytest

from imagenet import checkpoint, recipe, train


def trained(units=3, steps=2):
    """A small model whose optimizer, averages and random generator have all moved."""
    keras.utils.set_random_seed(0)
    model = keras.Sequential(
        [
            keras.Input((4,)),
            keras.layers.Dense(units),
            keras.layers.BatchNormalization(),
            keras.layers.Dropout(0.5, seed=1),
            keras.layers.Dense(2),
        ]
    )
    how = recipe.Recipe(
        epochs=2, batch_size=8, learning_rate=0.1, warmup_epochs=0, ema=0.9, accumulate=2
    )
    train.compile_model(model, how, steps=4)
    model.optimizer.build(model.trainable_variables)
    x = np.random.default_rng(0).normal(size=(8, 4)).astype("float32")
    y = keras.utils.to_categorical(np.arange(8) % 2, 2)
    for _ in range(steps):
        model.train_on_batch(x, y)
    return model, (x, y)


def values_of(model):
    variables = (*model.variables, *model.optimizer.variables)
    return [keras.ops.convert_to_numpy(variable) for variable in variables]


def rewrite(folder, **changes):
    """Changes what a checkpoint says about itself."""
    with np.load(folder / checkpoint.NAME) as file:
        arrays = dict(file)
    about = {**json.loads(str(arrays["about"])), **changes}
    np.savez(folder / checkpoint.NAME, **{**arrays, "about": np.array(json.dumps(about))})


def files_in(folder):
    return sorted(path.name for path in folder.iterdir())


def test_everything_comes_back_and_training_goes_on_as_if_nothing_was(tmp_path):
    model, batch = trained(steps=3)
    assert not checkpoint.exists(tmp_path)
    checkpoint.save(tmp_path, model, {"epoch": 1}, {"model": "a"})
    assert files_in(tmp_path) == [checkpoint.NAME]
    saved = values_of(model)
    model.train_on_batch(*batch)
    further = values_of(model)
    assert any((a != b).any() for a, b in zip(saved, further, strict=True))

    other, _ = trained(steps=0)
    assert checkpoint.restore(tmp_path, other, {"model": "a"}) == {"epoch": 1}
    for before, after in zip(saved, values_of(other), strict=True):
        np.testing.assert_array_equal(before, after)
    other.train_on_batch(*batch)
    for before, after in zip(further, values_of(other), strict=True):
        np.testing.assert_allclose(before, after, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize(
    ("changes", "settings", "message"),
    [
        ({}, {"model": "b"}, r"of another run \(model: 'a' there, 'b' now\)"),
        ({"settings": None}, {"model": "a"}, "cannot be read"),
        ({"settings": [1]}, {"model": "a"}, "cannot be read"),
    ],
)
def test_what_does_not_fit_is_refused_and_nothing_written(tmp_path, changes, settings, message):
    model, _ = trained()
    checkpoint.save(tmp_path, model, {}, {"model": "a"})
    rewrite(tmp_path, **changes)
    before = values_of(model)
    with pytest.raises(checkpoint.CheckpointError, match=message):
        checkpoint.restore(tmp_path, model, settings)
    for a, b in zip(before, values_of(model), strict=True):
        np.testing.assert_array_equal(a, b)


def test_other_shapes_are_refused(tmp_path):
    model, _ = trained()
    checkpoint.save(tmp_path, model, {}, {})
    wider, _ = trained(units=5, steps=0)
    with pytest.raises(checkpoint.CheckpointError, match=r"\(4, 3\) float32 there, \(4, 5\) "):
        checkpoint.restore(tmp_path, wider, {})


def test_a_file_that_was_cut_off_says_so(tmp_path):
    model, _ = trained()
    checkpoint.save(tmp_path, model, {}, {})
    path = tmp_path / checkpoint.NAME
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(checkpoint.CheckpointError, match="cannot be read"):
        checkpoint.restore(tmp_path, model, {})


@pytest.mark.skipif(os.name != "posix", reason="limits of a process are those of POSIX")
def test_where_no_space_is_left_the_checkpoint_before_stays_whole(tmp_path):
    import resource
    import signal

    model, batch = trained()
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2000, limits[1]))
    try:
        with pytest.raises(OSError, match="."):
            checkpoint.save(tmp_path, model, {"epoch": 1}, {})
        assert not files_in(tmp_path)
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        checkpoint.save(tmp_path, model, {"epoch": 1}, {})
        before = values_of(model)
        model.train_on_batch(*batch)
        resource.setrlimit(resource.RLIMIT_FSIZE, (2000, limits[1]))
        with pytest.raises(OSError, match="."):
            checkpoint.save(tmp_path, model, {"epoch": 2}, {})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, handler)
    assert files_in(tmp_path) == [checkpoint.NAME]
    assert checkpoint.restore(tmp_path, model, {}) == {"epoch": 1}
    for a, b in zip(before, values_of(model), strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("about", [None, [], 3, {}, {"state": {}}])
def test_what_says_nothing_of_the_run_is_refused(about, tmp_path):
    model, _ = trained()
    checkpoint.save(tmp_path, model, {}, {})
    with np.load(tmp_path / checkpoint.NAME) as file:
        arrays = {name: file[name] for name in file.files}
    np.savez(tmp_path / checkpoint.NAME, **{**arrays, "about": np.array(json.dumps(about))})
    with pytest.raises(checkpoint.CheckpointError, match="cannot be read"):
        checkpoint.restore(tmp_path, model, {})


@pytest.mark.parametrize(
    "array",
    [
        np.zeros((2, 2), "float32"),
        np.array("text"),
        *(np.zeros((4, 3), kind) for kind in ("float64", "int32", "bool", "V4", "S1")),
    ],
)
def test_other_arrays_than_it_says_are_refused(array, tmp_path):
    model, _ = trained()
    checkpoint.save(tmp_path, model, {}, {})
    with np.load(tmp_path / checkpoint.NAME) as file:
        arrays = {name: file[name] for name in file.files}
    np.savez(tmp_path / checkpoint.NAME, **{**arrays, "00000": array})
    before = values_of(model)
    with pytest.raises(checkpoint.CheckpointError, match="of another model: .* there, "):
        checkpoint.restore(tmp_path, model, {})
    for a, b in zip(before, values_of(model), strict=True):
        np.testing.assert_array_equal(a, b)
