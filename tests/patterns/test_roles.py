"""Attention that is written in operations: found by its roles, and rightly written.

The exact test: where each head's query-key product is I and the value-output product
is -I, the layer computes -softmax(x x^T s) x, however its kernels are laid out.
"""

import inspect

import keras
import numpy as np
import pytest
from arrays import array
from keras import layers, ops

import keras_mimetic
from keras_mimetic._find import find_sites
from keras_mimetic._patterns import attention as sites
from keras_mimetic._patterns import contents

# As wide as each head, so that products can be exact identities.
DIM, HEADS, SIZE, TOKENS = 4, 2, 4, 6
EXACT = {"attention": {"query_key": (0, 1), "value_output": (0, -1)}}


def dense(x, units=HEADS * SIZE):
    return layers.Dense(units)(x)


def heads(t, n=TOKENS):
    return ops.transpose(ops.reshape(t, (-1, n, HEADS, SIZE)), (0, 2, 1, 3))


def attend(q, k, v, n=TOKENS, scale=SIZE**-0.5):
    scores = ops.matmul(q, ops.swapaxes(k, -1, -2)) * scale
    y = ops.matmul(ops.softmax(scores), v)
    return ops.reshape(ops.transpose(y, (0, 2, 1, 3)), (-1, n, HEADS * SIZE))


def apart(x):
    return dense(attend(*(heads(dense(x)) for _ in range(3))), DIM)


def split_in_three(x):
    q, k, v = ops.split(dense(x, 3 * HEADS * SIZE), 3, axis=-1)
    return dense(attend(heads(q), heads(k), heads(v)), DIM)


def three_axes(x):
    qkv = ops.reshape(dense(x, 3 * HEADS * SIZE), (-1, TOKENS, 3, HEADS, SIZE))
    qkv = ops.transpose(qkv, (2, 0, 3, 1, 4))
    return dense(layers.Dropout(0.1)(attend(qkv[0], qkv[1], qkv[2])), DIM)


def unpacked(x):
    qkv = ops.reshape(dense(x, 3 * HEADS * SIZE), (-1, TOKENS, 3, HEADS, SIZE))
    q, k, v = ops.unstack(ops.transpose(qkv, (2, 0, 3, 1, 4)), 3, axis=0)
    return dense(attend(q, k, v), DIM)


def three_in_each_head(x):
    qkv = layers.Reshape((TOKENS, HEADS, 3 * SIZE))(dense(x, 3 * HEADS * SIZE))
    qkv = layers.Permute((2, 1, 3))(qkv)
    q, k, v = (qkv[..., n * SIZE : (n + 1) * SIZE] for n in range(3))
    return dense(attend(q, k, v), DIM)


def einsum_dense(x):
    q, k, v = (
        layers.EinsumDense("abc,cde->abde", (None, HEADS, SIZE), bias_axes="de")(x)
        for _ in range(3)
    )
    scores = ops.einsum("aecd,abcd->acbe", k, q) * SIZE**-0.5
    y = ops.einsum("acbe,aecd->abcd", layers.Softmax()(scores), v)
    return layers.EinsumDense("abcd,cde->abe", (None, DIM))(y)


def fused_einsum_dense(x):
    qkv = layers.EinsumDense("...c,cdef->...def", (HEADS, 3, SIZE))(x)
    q, k, v = (ops.transpose(qkv[:, :, :, n], (0, 2, 1, 3)) for n in range(3))
    return dense(attend(q, k, v), DIM)


def convolution(x):
    image = ops.reshape(x, (-1, 2, 3, DIM))
    qkv = layers.Conv2D(3 * HEADS * SIZE, 1)(image)
    qkv = ops.transpose(ops.reshape(qkv, (-1, TOKENS, 3, HEADS, SIZE)), (0, 3, 2, 4, 1))
    q, k, v = (qkv[:, :, n] for n in range(3))
    # Channels before positions.
    scores = ops.softmax(ops.einsum("bhdn,bhdm->bhnm", q, k) * SIZE**-0.5)
    y = ops.einsum("bhnm,bhdm->bhdn", scores, v)
    y = ops.transpose(ops.reshape(y, (-1, HEADS * SIZE, 2, 3)), (0, 2, 3, 1))
    return ops.reshape(layers.Conv2D(DIM, 1)(y), (-1, TOKENS, DIM))


def in_one_operation(x):
    q, k, v = (ops.reshape(dense(x), (-1, TOKENS, HEADS, SIZE)) for _ in range(3))
    y = ops.dot_product_attention(q, k, v)
    return dense(ops.reshape(y, (-1, TOKENS, HEADS * SIZE)), DIM)


def one_layer(x):
    q, v, k = dense(x, SIZE), dense(x, SIZE), dense(x, SIZE)
    return dense(layers.Attention()([q * SIZE**-0.5, v, k]), DIM)


def dot_layers(x):
    q, k, v = (dense(x, SIZE) for _ in range(3))
    scores = layers.Dot(axes=(2, 2))([q, k]) * SIZE**-0.5
    y = layers.Dot(axes=(2, 1))([layers.Activation("softmax")(scores), v])
    return dense(y, DIM)


def with_a_bias_by_head(x):
    table = layers.Embedding(TOKENS * TOKENS, HEADS, embeddings_initializer="zeros")
    bias = ops.reshape(table(ops.arange(TOKENS * TOKENS)), (TOKENS, TOKENS, HEADS))
    q, k, v = (heads(dense(x)) for _ in range(3))
    scores = ops.matmul(q, ops.swapaxes(k, -1, -2)) * SIZE**-0.5
    scores = scores + ops.transpose(bias, (2, 0, 1))[None]
    y = ops.transpose(ops.matmul(ops.softmax(scores), v), (0, 2, 1, 3))
    return dense(ops.reshape(y, (-1, TOKENS, HEADS * SIZE)), DIM)


def groups_repeated(x):
    q = ops.reshape(dense(x, 4 * SIZE), (-1, TOKENS, 4, SIZE))
    k, v = (
        ops.repeat(ops.reshape(dense(x), (-1, TOKENS, HEADS, SIZE)), 2, axis=2) for _ in range(2)
    )
    scores = ops.softmax(ops.einsum("bqhd,bkhd->bhqk", q, k) * SIZE**-0.5)
    y = ops.einsum("bhqk,bkhd->bqhd", scores, v)
    return dense(ops.reshape(y, (-1, TOKENS, 4 * SIZE)), DIM)


def groups_in_an_axis(x):
    q = ops.reshape(dense(x, 6 * SIZE), (-1, TOKENS, HEADS, 3, SIZE))
    k, v = (ops.reshape(dense(x), (-1, TOKENS, HEADS, SIZE)) for _ in range(2))
    scores = ops.softmax(ops.einsum("btkgh,bskh->bkgts", q, k) * SIZE**-0.5)
    y = ops.einsum("bkgts,bskh->btkgh", scores, v)
    return layers.EinsumDense("btkgh,kghd->btd", (None, DIM))(y)


def one_key_for_all(x):
    q = heads(dense(x))
    k, v = (ops.expand_dims(dense(x, SIZE), 1) for _ in range(2))
    return dense(attend(q, k, v), DIM)


def grouped_layer(x):
    return layers.GroupQueryAttention(SIZE, 6, 2)(x, x)


GROUPED = [groups_repeated, groups_in_an_axis, one_key_for_all, grouped_layer]
FORMS = [
    apart,
    split_in_three,
    three_axes,
    unpacked,
    three_in_each_head,
    einsum_dense,
    fused_einsum_dense,
    convolution,
    in_one_operation,
    one_layer,
    dot_layers,
    with_a_bias_by_head,
]


def model_of(form, tokens=TOKENS):
    x = keras.Input((tokens, DIM))
    return keras.Model(x, form(x))


def reference(x):
    scores = np.exp(x @ x.swapaxes(1, 2) * SIZE**-0.5)
    return -(scores / scores.sum(-1, keepdims=True)) @ x


@pytest.mark.parametrize("form", FORMS, ids=lambda form: form.__name__)
def test_products_are_exact_for_every_kernel_layout(form):
    check_exact(model_of(form))


def check_exact(model):
    report = keras_mimetic.initialize(model, EXACT, seed=0)
    assert len(report.written) == 4
    assert not report.skipped
    x = np.random.default_rng(0).normal(size=(3, TOKENS, DIM)).astype("float32")
    np.testing.assert_allclose(array(model(x)), reference(x), atol=2e-5)
    # And what was written is measured, head by head.
    measured = keras_mimetic.measure(model, "attention")
    of_heads = [row.value for row in measured.select(part="query_key", figure="identity")]
    np.testing.assert_allclose(of_heads, 1, atol=1e-5)
    (value_output,) = measured.select(part="value_output", figure="identity")
    assert value_output.value == pytest.approx(-1, abs=1e-5)


@pytest.mark.parametrize("form", GROUPED, ids=lambda form: form.__name__)
def test_heads_that_share_keys_and_values(form):
    model = model_of(form)
    with pytest.warns(UserWarning, match="wrote no weight"):
        report = keras_mimetic.initialize(model, "attention", seed=0)
    assert all("grouped-query attention" in row.note for row in report.rows)
    check_exact(model)
    # Their controls have the same norms.
    norms = [
        sorted(row.norm_after for row in report.written)
        for report in (
            keras_mimetic.initialize(model, EXACT, seed=0, control=control, force=True)
            for control in (False, True)
        )
    ]
    np.testing.assert_allclose(*norms, rtol=1e-5)


def test_a_gated_layer_of_grouped_queries():
    if "use_gate" not in inspect.signature(layers.GroupQueryAttention).parameters:
        pytest.skip("this version of Keras has no gate")
    gated = model_of(lambda x: layers.GroupQueryAttention(SIZE, 2, 2, use_gate=True)(x, x))
    report = keras_mimetic.initialize(gated, EXACT, seed=0)
    assert len(report.written) == 2
    assert {row.note for row in report.skipped} == {"a gate multiplies its values"}


def test_shifted_windows():
    """Swin: windows of shifted positions, heads of one fused kernel."""
    x = keras.Input((4, 4, DIM))
    y = ops.roll(layers.LayerNormalization()(x), (-1, -1), axis=(1, 2))
    y = ops.reshape(y, (-1, 2, 2, 2, 2, DIM))
    y = ops.reshape(ops.transpose(y, (0, 1, 3, 2, 4, 5)), (-1, 4, DIM))
    qkv = ops.reshape(dense(y, 3 * HEADS * SIZE), (-1, 4, 3, HEADS, SIZE))
    q, k, v = ops.unstack(ops.transpose(qkv, (2, 0, 3, 1, 4)), 3)
    scores = ops.matmul(q, ops.swapaxes(k, -1, -2))
    mask = np.zeros((1, 4, 1, 4, 4), "float32")
    scores = ops.reshape(ops.reshape(scores, (-1, 4, HEADS, 4, 4)) + mask, (-1, HEADS, 4, 4))
    y = ops.transpose(ops.matmul(ops.softmax(scores), v), (0, 2, 1, 3))
    y = dense(ops.reshape(y, (-1, 4, HEADS * SIZE)), DIM)
    y = ops.reshape(y, (-1, 2, 2, 2, 2, DIM))
    y = ops.reshape(ops.transpose(y, (0, 1, 3, 2, 4, 5)), (-1, 4, 4, DIM))
    model = keras.Model(x, ops.roll(y, (1, 1), axis=(1, 2)))
    report = keras_mimetic.initialize(model, EXACT, seed=0)
    assert len(report.written) == 4
    # Equal positions attend to themselves.
    one = np.random.default_rng(0).normal(size=DIM).astype("float32")
    normed = (one - one.mean()) / np.sqrt(one.var() + 1e-3)
    images = np.broadcast_to(one, (2, 4, 4, DIM))
    np.testing.assert_allclose(array(model(images))[1, 2, 3], -normed, atol=1e-5)


def rotary(x):
    half = SIZE // 2
    angles = np.arange(TOKENS)[:, None] * np.ones((1, SIZE), "float32")
    turned = ops.concatenate([-x[..., half:], x[..., :half]], axis=-1)
    return x * np.cos(angles) + turned * np.sin(angles)


def rotary_first(x):
    q, k, v = (heads(dense(x)) for _ in range(3))
    return dense(attend(rotary(q), rotary(k), v), DIM)


def normed_heads(x):
    q, k, v = (heads(dense(x)) for _ in range(3))
    norm = layers.LayerNormalization()
    return dense(attend(norm(q), norm(k), v), DIM)


@pytest.mark.parametrize("form", [rotary_first, normed_heads])
def test_rotations_and_norms_between(form):
    (site,) = find_sites(model_of(form), ["attention"]).sites
    assert (site.skip_reason, site.skipped_pairs) == ("", {})
    kernels = {role: part.variable for role, part in site.weights.items()}
    assert len({id(kernel) for kernel in kernels.values()}) == 4
    for role in ("query", "key", "value"):
        expected = np.arange(HEADS * SIZE).reshape(HEADS, SIZE)
        np.testing.assert_array_equal(site.weights[role].index, expected)


def moved_queries(x):
    position = layers.Embedding(TOKENS, DIM)(ops.arange(TOKENS))
    q, k, v = heads(dense(x + position)), heads(dense(x + position)), heads(dense(x))
    return dense(attend(q, k, v), DIM)


def first_token_alone(x):
    q = heads(dense(x[:, :1]), 1)
    return dense(attend(q, heads(dense(x)), heads(dense(x)), 1), DIM)


def pooled_keys(x):
    pooled = layers.AveragePooling1D(2)(x)
    n = TOKENS // 2
    return dense(attend(heads(dense(x)), heads(dense(pooled), n), heads(dense(pooled), n)), DIM)


@pytest.mark.parametrize("form", [moved_queries, first_token_alone, pooled_keys])
def test_streams_survive_positions_slices_and_pooling(form):
    (site,) = find_sites(model_of(form), ["attention"]).sites
    assert site.skipped_pairs == {}
    assert not site.skip_reason


def own_token_and_others(x):
    other = dense(x, DIM)
    keys = layers.Concatenate(axis=1)([x[:, :1], other])
    return layers.MultiHeadAttention(HEADS, SIZE)(x[:, :1], keys)


def with_a_class_token(x):
    x = layers.Concatenate(axis=1)([dense(x[:, :1], DIM), x])
    return layers.MultiHeadAttention(HEADS, SIZE)(layers.LayerNormalization()(x), x)


def prefix_of_weights(x):
    keys = ops.concatenate([ops.ones((2, 1, DIM)), x], axis=1)
    return layers.MultiHeadAttention(HEADS, SIZE)(x, keys)


@pytest.mark.parametrize(
    ("form", "why"),
    [
        (own_token_and_others, "cross-attention"),
        (with_a_class_token, ""),
        (prefix_of_weights, ""),
    ],
)
def test_joined_keys_count_by_their_parts(form, why):
    x = keras.Input((TOKENS, DIM), batch_size=2)
    (site,) = find_sites(keras.Model(x, form(x)), ["attention"]).sites
    assert site.skip_reason == why


class LearnedQueries(layers.Layer):
    def build(self, shape):
        self.queries = self.add_weight(shape=(2, 3, DIM))
        self.attention = layers.MultiHeadAttention(HEADS, SIZE)
        self.attention.build(self.queries.shape, shape)

    def call(self, x):
        return self.attention(ops.convert_to_tensor(self.queries), x)


def test_learned_queries():
    x = keras.Input((TOKENS, DIM), batch_size=2)
    (site,) = find_sites(keras.Model(x, LearnedQueries()(x)), ["attention"]).sites
    assert "learned" in site.skip_reason


def linear(x):
    q, k, v = (heads(ops.relu(dense(x))) for _ in range(3))
    y = ops.matmul(q, ops.matmul(ops.swapaxes(k, -1, -2), v))
    return dense(ops.reshape(ops.transpose(y, (0, 2, 1, 3)), (-1, TOKENS, HEADS * SIZE)), DIM)


def talking(x):
    q, k, v = (heads(dense(x)) for _ in range(3))
    scores = ops.transpose(ops.matmul(q, ops.swapaxes(k, -1, -2)), (0, 2, 3, 1))
    scores = ops.transpose(ops.softmax(layers.Dense(HEADS)(scores), axis=2), (0, 3, 1, 2))
    y = ops.transpose(ops.matmul(scores, v), (0, 2, 1, 3))
    return dense(ops.reshape(y, (-1, TOKENS, HEADS * SIZE)), DIM)


def grouped(x):
    q = heads(dense(x))
    k, v = (
        ops.repeat(ops.reshape(dense(x, SIZE), (-1, 1, TOKENS, SIZE)), HEADS, axis=1)
        for _ in range(2)
    )
    return dense(attend(q, k, v), DIM)


def grouped_in_one_operation(x):
    q = ops.reshape(dense(x), (-1, TOKENS, HEADS, SIZE))
    k, v = (ops.reshape(dense(x, SIZE), (-1, TOKENS, 1, SIZE)) for _ in range(2))
    y = ops.dot_product_attention(q, k, v)
    return dense(ops.reshape(y, (-1, TOKENS, HEADS * SIZE)), DIM)


def gated_values(x):
    y = attend(*(heads(dense(x)) for _ in range(3)))
    return dense(y * ops.sigmoid(dense(x)), DIM)


def test_a_gate_after_attention_skips_value_and_output():
    report = keras_mimetic.initialize(model_of(gated_values), "attention", seed=0)
    assert [row.written for row in report.rows] == [True, True, False, False]


def test_shared_values_are_skipped():
    x = keras.Input((TOKENS, DIM))
    v = heads(dense(x))
    both = [attend(heads(dense(x)), heads(dense(x)), v) for _ in range(2)]
    model = keras.Model(x, dense(both[0], DIM) + dense(both[1], DIM))
    report = keras_mimetic.initialize(model, "attention", seed=0)
    assert not report.written
    assert {row.note for row in report.rows} == {sites.SHARED}


def additive(x):
    return layers.AdditiveAttention(use_scale=False)([dense(x), dense(x), dense(x)])


@pytest.mark.parametrize(
    ("form", "why"),
    [
        (linear, "linear attention"),
        (talking, "heads are mixed"),
        (grouped, "grouped-query"),
        (grouped_in_one_operation, "grouped-query"),
        (additive, "additive attention"),
    ],
)
def test_skipped_attention_has_a_reason(form, why):
    model = model_of(form)
    before = model.get_weights()
    report = keras_mimetic.initialize(model, "attention", seed=0)
    assert not report.written
    assert report.skipped
    assert all(why in row.note for row in report.skipped), report
    for a, b in zip(before, model.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)


def test_cross_attention_is_skipped():
    x, y = keras.Input((TOKENS, DIM)), keras.Input((TOKENS, DIM))
    z = dense(attend(heads(dense(x)), heads(dense(y)), heads(dense(y))), DIM)
    report = keras_mimetic.initialize(keras.Model([x, y], z), "attention", seed=0)
    assert [row.note for row in report.rows] == ["cross-attention"] * 4


def test_unknown_queries_are_not_cross_attention():
    class Opaque(layers.Layer):
        def compute_output_spec(self, both):
            return [keras.KerasTensor(x.shape, x.dtype) for x in both]

        def call(self, both):
            raise RuntimeError("no")

    x = keras.Input((TOKENS, DIM))
    q, k, v = (ops.reshape(dense(x), (-1, TOKENS, HEADS, SIZE)) for _ in range(3))
    y = ops.dot_product_attention(*Opaque()([q, k]), v)
    z = dense(ops.reshape(y, (-1, TOKENS, HEADS * SIZE)), DIM)
    report = keras_mimetic.initialize(keras.Model(x, z), "attention", seed=0)
    assert {row.note for row in report.skipped} == {contents.UNKNOWN}
    assert not report.written


def test_each_pair_is_considered_separately():
    x, memory = keras.Input((TOKENS, DIM)), keras.Input((TOKENS, DIM))
    z = dense(attend(heads(dense(x)), heads(dense(x)), heads(dense(memory))), DIM)
    report = keras_mimetic.initialize(keras.Model([x, memory], z), "attention", seed=0)
    assert [row.written for row in report.rows] == [True, True, False, False]
    assert report.skipped[0].note == sites.CROSS["value_output"]


def test_without_an_output_projection():
    x = keras.Input((TOKENS, DIM))
    model = keras.Model(x, attend(*(heads(dense(x)) for _ in range(3))))
    report = keras_mimetic.initialize(model, "attention", seed=0)
    assert [row.written for row in report.rows] == [True, True, False]
    assert "no projection of its values" in report.skipped[0].note


def test_a_rule_for_one_layer_of_attention_skips_all():
    x = keras.Input((TOKENS, DIM))
    q, k, v = (heads(layers.Dense(HEADS * SIZE, name=name)(x)) for name in ("q1", "k1", "v1"))
    model = keras.Model(x, dense(attend(q, k, v), DIM))
    report = keras_mimetic.initialize(model, "attention", seed=0, rules={"^v1/": None})
    assert [row.note for row in report.rows] == ["by the rule '^v1/'"] * 4


def test_causal_masks_in_operations():
    def form(mask):
        def body(x):
            q, k, v = (heads(dense(x)) for _ in range(3))
            scores = mask(ops.matmul(q, ops.swapaxes(k, -1, -2)))
            y = ops.transpose(ops.matmul(ops.softmax(scores), v), (0, 2, 1, 3))
            return dense(ops.reshape(y, (-1, TOKENS, HEADS * SIZE)), DIM)

        return body

    triangle = np.tril(np.ones((TOKENS, TOKENS), bool))
    for mask, expected in (
        (lambda s: s, False),
        (lambda s: ops.where(triangle, s, -1e9), True),
        (lambda s: s + np.where(triangle, 0, -1e9).astype("float32"), True),
        (lambda s: s + np.ones((TOKENS, TOKENS), "float32"), False),
    ):
        (site,) = find_sites(model_of(form(mask)), ["attention"]).sites
        assert site.is_causal is expected


def test_a_control_has_the_norms_without_the_structure():
    model = model_of(split_in_three)
    before = model.get_weights()
    structured = keras_mimetic.initialize(model, "attention", seed=0, dry_run=True)
    control = keras_mimetic.initialize(model, "attention", seed=0, control=True)
    for a, b in zip(structured.rows, control.rows, strict=True):
        assert a.norm_after == pytest.approx(b.norm_after, rel=1e-5)
    assert (model.get_weights()[0] != before[0]).all()


def reduced(make):
    """Attention to fewer positions, in `MultiHeadAttention` and in operations."""

    def build(in_operations):
        x = keras.Input((8, DIM))
        y = layers.LayerNormalization()(x)
        z = layers.LayerNormalization()(make(y))
        if in_operations:
            (k, v), n = (dense(z) for _ in range(2)), z.shape[1]
            return keras.Model(x, dense(attend(heads(dense(y), 8), heads(k, n), heads(v, n), 8)))
        return keras.Model(x, x + layers.MultiHeadAttention(HEADS, SIZE)(y, z))

    return build


@pytest.mark.parametrize("in_operations", [False, True])
@pytest.mark.parametrize(
    ("make", "what"),
    [
        (lambda y: layers.DepthwiseConv1D(2, strides=2)(y), ""),
        (lambda y: layers.AveragePooling1D(2)(y), ""),
        (lambda y: layers.Conv1D(DIM, 2, strides=2)(y), "a strided convolution"),
        (lambda y: layers.Conv1D(DIM, 3, padding="same")(y), "a convolution"),
        (lambda y: layers.Dense(DIM, "relu")(y), "a projection"),
        (lambda y: ops.relu(y), "an activation"),
    ],
)
def test_keys_of_the_stream_in_other_channels(make, what, in_operations):
    """Spatial reduction, as in PVT and SegFormer, is not cross-attention."""
    (site,) = find_sites(reduced(make)(in_operations), ["attention"]).sites
    expected = [f"{name} are {what} of the stream" for name in ("keys", "values")] if what else []
    assert "cross" not in site.skip_reason
    assert all(text in site.skip_reason for text in expected)
    assert bool(site.skip_reason) is bool(expected)


def test_queries_and_keys_each_after_a_matrix():
    x = keras.Input((TOKENS, DIM))
    y, z = layers.Dense(DIM)(x), layers.Dense(DIM)(x)
    (site,) = find_sites(keras.Model(x, layers.MultiHeadAttention(2, 4)(y, z)), ["attention"]).sites
    assert "queries and keys are of one stream, each after a matrix" in site.skip_reason
    (site,) = find_sites(keras.Model(x, layers.MultiHeadAttention(2, 4)(y, x)), ["attention"]).sites
    assert "queries are a projection of the stream of the keys" in site.skip_reason
