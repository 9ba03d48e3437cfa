"""Learned position tables: found however they are written, started as sinusoids, measured."""

import keras
import numpy as np
import pytest
from keras import layers, ops

import keras_mimetic
from keras_mimetic._find import find_sites
from keras_mimetic._numerics.position import sin_cos_table
from keras_mimetic._structures.position import SEQUENCE

WIDTH = 16


def array(tensor):
    return np.asarray(keras.ops.convert_to_numpy(keras.ops.cast(tensor, "float32")))


class Table(layers.Layer):
    """Adds a weight to its input in one of the ways that people write."""

    def __init__(self, shape, way="plain", initializer="normal", prefix=0):
        super().__init__()
        self.table = self.add_weight(shape=shape, initializer=initializer)
        self.token = self.add_weight(shape=(1, 1, WIDTH), initializer="normal")
        self.way, self.prefix = way, prefix

    def call(self, x):
        if self.prefix:
            token = ops.broadcast_to(self.token, (ops.shape(x)[0], self.prefix, WIDTH))
            x = ops.concatenate([token, x], axis=1)
        if self.way == "left":
            return self.table + x
        if self.way == "sliced":
            return x + self.table[:, : x.shape[1]]
        if self.way == "converted":
            return ops.add(x, ops.expand_dims(ops.convert_to_tensor(self.table), 0))
        return x + self.table


def sequence(make, n=6):
    x = keras.Input((n, WIDTH))
    return keras.Model(x, layers.Dense(3)(make(x)))


def image(make, size=8):
    x = keras.Input((size, size, 3))
    y = layers.Reshape((-1, WIDTH))(layers.Conv2D(WIDTH, 2, 2)(x))
    return keras.Model(x, layers.Dense(3)(make(y)))


def sites(model, **arguments):
    return find_sites(model, ["position"], **arguments).sites


class Embedded(layers.Layer):
    """Adds an embedding of 0, 1, 2, ..."""

    def __init__(self, n=6, way="plain", indices=None, initializer="uniform"):
        super().__init__()
        self.embedding = layers.Embedding(n, WIDTH, embeddings_initializer=initializer)
        self.dropout = layers.Dropout(0.1)
        self.indices = np.arange(n) if indices is None else np.array(indices)
        self.way = way

    def build(self, shape):
        self.embedding.build()

    def call(self, x):
        if self.way == "dropped":
            table = self.embedding(ops.expand_dims(self.indices, 0))
            return ops.add(x, self.dropout(table))
        return x + self.embedding(ops.convert_to_tensor(self.indices))


@pytest.mark.parametrize(
    "make",
    [
        Table((6, WIDTH)),
        Table((1, 6, WIDTH), "left"),
        Table((1, 9, WIDTH), "sliced"),
        Table((6, WIDTH), "converted"),
        Embedded(),
        Embedded(way="dropped"),
    ],
)
def test_tables_of_a_sequence_are_found(make):
    (site,) = sites(sequence(make))
    assert site.grid == ((9,) if getattr(make, "way", "") == "sliced" else (6,))
    assert site.prefix == 0


def test_a_table_beside_tokens_and_segments():
    tokens, segments = (keras.Input((6,), dtype="int32") for _ in range(2))
    first, second = (layers.Embedding(9, WIDTH) for _ in range(2))
    table = Embedded()
    table.build(None)
    added = layers.Add()
    x = added([first(tokens), second(segments), table.embedding(ops.arange(6)[None])])
    assert sites(keras.Model([tokens, segments], layers.Dense(3)(x))) == []

    class Encoder(keras.Model):
        def __init__(self):
            super().__init__()
            self.tokens, self.segments, self.positions = first, second, table.embedding
            self.add = added

        def call(self, ids):
            summands = self.tokens(ids), self.segments(ids), self.positions(ops.arange(6)[None])
            return self.add([*summands])

    model = Encoder()
    model(np.zeros((2, 6), "int32"))
    (site,) = sites(model)
    assert (site.layer, site.grid) == (table.embedding, (6,))


class Other(Table):
    """Has a table, and adds something else."""

    def __init__(self, use):
        super().__init__((6, WIDTH))
        self.use = use

    def call(self, x):
        return self.use(self, x)


@pytest.mark.parametrize(
    "make",
    [
        Other(lambda self, x: x + self.token),
        Other(lambda self, x: x + ops.ones((6, WIDTH))),
        Other(lambda self, x: x * self.table),
        Other(lambda self, x: x + ops.relu(self.table)),
        Embedded(indices=[0, 2, 1, 3, 4, 5]),
    ],
)
def test_other_weights_are_not(make):
    assert sites(sequence(make)) == []


@pytest.mark.parametrize("prefix", [0, 1, 2])
def test_patches_have_rows_and_columns(prefix):
    (site,) = sites(image(Table((1, 16 + prefix, WIDTH), prefix=prefix)))
    assert (site.grid, site.prefix) == ((4, 4), prefix)


@pytest.mark.parametrize(
    ("size", "axes", "grid"),
    [
        ((8, 12, 3), [(-1, 4, 2, 6, 2, 3), (0, 1, 3, 2, 4, 5)], (4, 6)),
        ((8, 12, 1), [(-1, 4, 2, 6, 2), (0, 1, 3, 2, 4)], (4, 6)),
        ((3, 8, 12), [(-1, 3, 4, 2, 6, 2), (0, 2, 4, 1, 3, 5)], (4, 6)),
        # Runs of pixels in a row, which are no patches.
        ((8, 12, 3), [(-1, 24, 4, 3), (0, 1, 2, 3)], (24,)),
    ],
)
def test_patches_cut_by_reshaping(size, axes, grid):
    x = keras.Input(size)
    y = ops.transpose(ops.reshape(x, axes[0]), axes[1])
    y = layers.Dense(WIDTH)(ops.reshape(y, (-1, 24, int(np.prod(size)) // 24)))
    (site,) = sites(keras.Model(x, Table((24, WIDTH))(y)))
    assert site.grid == grid


def test_a_table_of_an_image():
    x = keras.Input((6, 4, WIDTH))
    (site,) = sites(keras.Model(x, Table((1, 6, 4, WIDTH))(x)))
    assert (site.grid, site.prefix) == ((6, 4), 0)


def test_patches_get_a_table_by_default_and_sequences_keep_theirs():
    (row,) = keras_mimetic.initialize(image(Table((1, 17, WIDTH), prefix=1)), seed=0).rows
    assert row.written
    assert row.norm_after == pytest.approx(0.5 * np.sqrt(16 * WIDTH), rel=0.01)
    with pytest.warns(UserWarning, match="wrote no weight"):
        (row,) = keras_mimetic.initialize(sequence(Table((6, WIDTH))), seed=0).rows
    assert (row.written, row.note) == (False, SEQUENCE)


def test_it_starts_as_sinusoids_and_keeps_tokens_and_scale():
    layer = Table((1, 17, WIDTH), initializer=keras.initializers.RandomNormal(0, 0.02), prefix=1)
    model = image(layer)
    before = array(layer.table)[0]
    report = keras_mimetic.initialize(model, structures={"position": {"rms": 0.5}}, seed=0)
    assert [(row.path, row.note) for row in report.rows] == [
        (
            layer.table.path,
            "sines and cosines of 4 by 4 positions; norm changes by a factor of "
            f"{report.rows[0].norm_after / report.rows[0].norm_before:.2g}",
        )
    ]
    after = array(layer.table)[0]
    np.testing.assert_array_equal(after[0], before[0])
    np.testing.assert_allclose(after[1:], sin_cos_table((4, 4), WIDTH, 0.5), atol=1e-6)
    measured = keras_mimetic.measure(model, structures="position")
    (row,) = measured.rows
    assert row.value > 0.97 > row.untrained_mean + 4 * row.untrained_std
    assert "explained by sinusoids" in str(measured)


def test_a_number_applies_to_every_table():
    layer = Embedded(64)
    keras_mimetic.initialize(sequence(layer, n=64), {"position": {"rms": 0.1}}, seed=0)
    table = layer.embedding.embeddings
    np.testing.assert_allclose(array(table), sin_cos_table((64,), WIDTH, 0.1), atol=1e-6)


def test_untrained_tables_are_no_sinusoids():
    model = sequence(Table((64, WIDTH)), n=64)
    measured = keras_mimetic.measure(model, structures="position")
    (row,) = measured.rows
    assert abs(row.value - row.untrained_mean) < 5 * row.untrained_std


def test_control_has_the_same_norm():
    layer = Table((6, WIDTH))
    model = sequence(layer)
    settings = {"position": {"rms": 1}}
    (row,) = keras_mimetic.initialize(model, settings, seed=0, control=True).rows
    expected = np.linalg.norm(sin_cos_table((6,), WIDTH, 1.0)) / np.sqrt(6 * WIDTH)
    assert expected == pytest.approx(1)
    np.testing.assert_allclose(np.linalg.norm(array(layer.table)), row.norm_after, rtol=1e-5)
    assert keras_mimetic.measure(model, "position").rows[0].value < 0.95


@pytest.mark.parametrize("rms", [0, -1, "keep", None, float("nan")])
def test_bad_settings(rms):
    with pytest.raises((TypeError, ValueError), match="`rms` must be 'auto' or a finite number"):
        keras_mimetic.initialize(sequence(Table((6, WIDTH))), {"position": {"rms": rms}}, seed=0)


def test_rules():
    layer = Table((6, WIDTH))
    model = sequence(layer)
    (site,) = sites(model, rules={"table": None})
    assert site.by_rule
    with pytest.raises(ValueError, match="cannot be given"):
        sites(model, rules={"dense": "position"})
    embedding = layers.Embedding(6, WIDTH)
    x = keras.Input((6,), dtype="int32")
    model = keras.Model(x, embedding(x))
    assert sites(model) == []
    (site,) = sites(model, rules={"embeddings": "position"})
    assert site.grid == (6,)


def test_keras_hub():
    keras_hub = pytest.importorskip("keras_hub")
    gpt = keras_hub.models.GPT2Backbone(
        vocabulary_size=50,
        num_layers=1,
        num_heads=2,
        hidden_dim=WIDTH,
        intermediate_dim=32,
        max_sequence_length=32,
    )
    (site,) = sites(gpt)
    assert (site.grid, site.weights["table"].shape) == ((32,), (32, WIDTH))
    vit = keras_hub.models.ViTBackbone(
        image_shape=(32, 32, 3),
        patch_size=8,
        num_layers=1,
        num_heads=2,
        hidden_dim=WIDTH,
        mlp_dim=32,
    )
    (site,) = sites(vit)
    assert (site.grid, site.prefix) == ((4, 4), 1)
