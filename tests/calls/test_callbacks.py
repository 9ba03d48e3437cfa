import csv

import keras
import numpy as np
import pytest
from keras import layers

import keras_mimetic
from keras_mimetic.callbacks import StructureLogger

X = np.random.default_rng(0).normal(size=(32, 6, 16)).astype("float32")


def make():
    inputs = keras.Input((6, 16))
    x = inputs
    for _ in range(2):
        y = layers.LayerNormalization()(x)
        x = x + layers.MultiHeadAttention(2, 8)(y, y)
        y = layers.LayerNormalization()(x)
        x = x + layers.Dense(16)(layers.Dense(64, activation="relu")(y))
    return compiled(keras.Model(inputs, x))


def compiled(model):
    # Steps that change weights in a single epoch.
    model.compile(keras.optimizers.SGD(0.3), loss="mse")
    return model


def fit(model, *callbacks, epochs=3):
    y = np.roll(X, 1, axis=1)
    return model.fit(X, y, batch_size=32, epochs=epochs, verbose=0, callbacks=[*callbacks])


def test_figures_are_in_logs_and_history(tmp_path):
    model = make()
    before = keras_mimetic.measure(model)
    logger = StructureLogger(by_layer=True)
    path = tmp_path / "log.csv"
    history = fit(model, logger, keras.callbacks.CSVLogger(path)).history
    with path.open() as file:
        table = list(csv.DictReader(file))
    names = [
        "mlp/first/mean",
        "mlp/first/energy_over_outputs",
        "mlp/hidden_bias/mean",
        "attention/query_key/diagonal",
        "attention/value_output/diagonal",
    ]
    assert sum("layer_" not in name for name in logger.history[0]) == 1 + len(names)
    assert [row["epoch"] for row in logger.history] == [0, 1, 2, 3]
    # Measured where it says: the weights before and after training.
    for measured, row in ((before, logger.history[0]), (keras_mimetic.measure(model), None)):
        row = row or logger.history[-1]
        for name in names:
            structure, part, figure = name.split("/")
            rows = measured.select(structure=structure, part=part, figure=figure)
            # By head for query and key, of all heads together for value and output.
            values = [r.value for r in rows if r.head is None] or [r.value for r in rows]
            assert row[name] == pytest.approx(np.mean(values), rel=1e-4, abs=1e-6)
    for name in (*names, "mlp/first/mean/layer_2"):
        logged = [row[name] for row in logger.history[1:]]
        assert history[name] == logged
        assert [float(row[name]) for row in table] == pytest.approx(logged)
        assert len(set(logged)) == 3
    picture = logger.plot()
    assert {axis.get_title() for axis in picture.axes if axis.axison} == {*names}


def test_logging_interval():
    logger = StructureLogger(every=2, figures=["mlp/second/mean"])
    history = fit(make(), logger, epochs=4).history["mlp/second/mean"]
    # The last epoch is always measured.
    assert [row["epoch"] for row in logger.history] == [0, 1, 3, 4]
    assert history[0] == history[1] != history[2] != history[3]
    # Another `fit` starts anew.
    fit(make(), logger, epochs=1)
    assert [row["epoch"] for row in logger.history] == [0, 1]


def test_a_resumed_training_goes_on_counting():
    model, logger = make(), StructureLogger()
    fit(model, epochs=2)
    y = np.roll(X, 1, axis=1)
    model.fit(X, y, initial_epoch=2, epochs=4, verbose=0, callbacks=[logger])
    assert [row["epoch"] for row in logger.history] == [2, 3, 4]


def test_a_training_that_another_callback_ends():
    class Stop(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            self.model.stop_training = epoch == 1

    logger = StructureLogger(every=5)
    fit(make(), logger, Stop(), epochs=4)
    assert [row["epoch"] for row in logger.history] == [0, 1, 2]


@pytest.mark.parametrize("figures", [None, ["mlp/first/mean", "mlp/second/mean"]])
def test_weights_that_become_nan(figures):
    class Diverge(keras.callbacks.Callback):
        def on_epoch_begin(self, epoch, logs=None):
            if epoch == 1:
                kernel = next(x for x in self.model.layers if isinstance(x, layers.Dense)).kernel
                kernel.assign(np.full(kernel.shape, np.nan))

    logger = StructureLogger(figures=figures)
    history = fit(make(), Diverge(), logger, epochs=2).history
    assert {len(values) for values in history.values()} == {2}
    assert np.isfinite(history["mlp/first/mean"][0])
    assert np.isnan(history["mlp/first/mean"][1])
    titles = [axis.get_title() for axis in logger.plot().axes if axis.axison]
    assert titles == [name for name in logger.history[0] if name != "epoch"]


@pytest.mark.parametrize("first", [[keras.Input((6, 16))], []], ids=["built", "built by fit"])
def test_a_model_without_structures(first):
    model = compiled(keras.Sequential([*first, layers.Dense(16)]))
    with pytest.warns(UserWarning, match="StructureLogger found nothing to measure. It looked"):
        fit(model, StructureLogger(), epochs=1)


def test_a_model_that_fit_builds():
    model = compiled(keras.Sequential([layers.Dense(64, "relu"), layers.Dense(16)]))
    logger = StructureLogger()
    history = fit(model, logger, epochs=1).history
    # TensorFlow builds it by its first batch, the others before.
    assert logger.history[-1]["epoch"] == 1
    assert "mlp/first/mean" in history


def test_bad_arguments():
    with pytest.raises(ValueError, match="`every` must be an integer >= 1"):
        StructureLogger(every=0)
    with pytest.raises(TypeError, match="`figures` must be None or names"):
        StructureLogger(figures="mlp/first/mean")
    with pytest.raises(ValueError, match="`structures` must name some of"):
        StructureLogger(structures="mpl")
    with pytest.raises(ValueError, match="`figures` must be among.*mlp/first/mean.*Received: x"):
        fit(make(), StructureLogger(figures=["x"]))
    with pytest.raises(ValueError, match="nothing to draw"):
        StructureLogger().plot()
