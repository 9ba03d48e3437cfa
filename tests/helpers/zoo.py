"""Small models of the kinds that people have, and what the finder makes of them.

    python tests/helpers/zoo.py

writes docs/compatibility.md; test_compatibility.py asks that every backend gives that table.
"""

import importlib.util
import warnings

import keras
import numpy as np
import paths
from keras import layers, ops

from keras_mimetic._find import find_sites

KINDS = ("attention", "mlp", "depthwise")
TABLE = paths.ROOT / "docs" / "compatibility.md"

MODELS = {}


def model(attention=0, mlp=0, depthwise=0, name=None):
    """Registers a maker of a model with so many of each kind."""

    def register(make):
        MODELS[name or make.__doc__.strip(".")] = make, (attention, mlp, depthwise)
        return make

    return register


def application(name, mlp, depthwise, **arguments):
    def make():
        cls = getattr(keras.applications, name)
        return cls(weights=None, input_shape=(32, 32, 3), classes=10, **arguments)

    model(mlp=mlp, depthwise=depthwise, name=f"keras.applications {name}")(make)


application("ConvNeXtTiny", 18, 18)
# Inverted residuals are listed as MLPs.
application("MobileNetV2", 16, 17)
application("EfficientNetV2B0", 16, 16)

TEXT = {"vocabulary_size": 50, "num_layers": 2, "num_heads": 2, "hidden_dim": 16}
IMAGE = {"image_shape": (32, 32, 3), "patch_size": 8, "num_layers": 2, "num_heads": 2}


def hub(name, attention, mlp, depthwise=0, **arguments):
    def make():
        import keras_hub

        return getattr(keras_hub.models, name)(**arguments)

    model(attention, mlp, depthwise, name=f"keras_hub {name}")(make)


hub("ViTBackbone", 2, 2, **IMAGE, hidden_dim=16, mlp_dim=32)
hub("DeiTBackbone", 2, 2, **IMAGE, hidden_dim=16, intermediate_dim=32)
hub(
    "DINOV2Backbone",
    2,
    2,
    patch_size=8,
    num_layers=2,
    hidden_dim=16,
    num_heads=2,
    intermediate_dim=32,
    image_shape=(32, 32, 3),
    num_register_tokens=0,
)
hub(
    "MiTBackbone",
    4,
    4,
    4,
    layerwise_depths=[1, 1, 1, 1],
    image_shape=(32, 32, 3),
    hidden_dims=[8, 16, 24, 32],
    num_layers=4,
    layerwise_num_heads=[1, 2, 3, 4],
    layerwise_sr_ratios=[8, 4, 2, 1],
    max_drop_path_rate=0.1,
    layerwise_patch_sizes=[7, 3, 3, 3],
    layerwise_strides=[4, 2, 2, 2],
)
hub("BertBackbone", 2, 2, **TEXT, intermediate_dim=32)
hub("AlbertBackbone", 1, 1, **TEXT, intermediate_dim=32, embedding_dim=8)
hub("GPT2Backbone", 2, 2, **TEXT, intermediate_dim=32)
hub("OPTBackbone", 2, 2, **TEXT, intermediate_dim=32, max_sequence_length=9)
hub("BloomBackbone", 2, 2, **TEXT, intermediate_dim=32)
hub("GPTNeoXBackbone", 2, 2, **TEXT, intermediate_dim=32)
hub(
    "LlamaBackbone",
    2,
    2,
    vocabulary_size=50,
    num_layers=2,
    num_query_heads=4,
    num_key_value_heads=2,
    hidden_dim=16,
    intermediate_dim=32,
)
hub("T5Backbone", 6, 4, **TEXT, intermediate_dim=32)
hub(
    "WhisperBackbone",
    6,
    4,
    **TEXT,
    intermediate_dim=32,
    max_encoder_sequence_length=16,
    max_decoder_sequence_length=16,
)
hub("XLNetBackbone", 2, 2, **TEXT, intermediate_dim=32)


def block(x, attend, hidden=32):
    x = x + attend(layers.LayerNormalization()(x))
    return x + feed(layers.LayerNormalization()(x), hidden)


def feed(x, hidden=32):
    return layers.Dense(x.shape[-1])(layers.Dense(hidden, "gelu")(x))


def transformer(attend, width=16, tokens=6, hidden=32, depth=2):
    x = inputs = keras.Input((tokens, width))
    for _ in range(depth):
        x = block(x, attend, hidden)
    return keras.Model(inputs, layers.Dense(3)(layers.GlobalAveragePooling1D()(x)))


def heads(t, n=6):
    return ops.transpose(ops.reshape(t, (-1, n, 2, 8)), (0, 2, 1, 3))


def product(q, k, v, n=6):
    y = ops.matmul(ops.softmax(ops.matmul(q, ops.swapaxes(k, -1, -2)) / 8**0.5), v)
    return layers.Dense(16)(ops.reshape(ops.transpose(y, (0, 2, 1, 3)), (-1, n, 16)))


@model(2, 2)
def apart():
    """Dense q, k, v and operations."""
    return transformer(lambda y: product(*(heads(layers.Dense(16)(y)) for _ in range(3))))


def fused_attention(y):
    qkv = ops.reshape(layers.Dense(48, use_bias=False)(y), (-1, y.shape[1], 3, 2, 8))
    q, k, v = ops.unstack(ops.transpose(qkv, (2, 0, 3, 1, 4)), 3)
    return product(q, k, v, y.shape[1])


@model(2, 2)
def fused():
    """One Dense for q, k and v (timm)."""
    return transformer(fused_attention)


@model(2, 2)
def one_operation():
    """ops.dot_product_attention."""

    def attend(y):
        q, k, v = (ops.reshape(layers.Dense(16)(y), (-1, 6, 2, 8)) for _ in range(3))
        return layers.Dense(16)(ops.reshape(ops.dot_product_attention(q, k, v), (-1, 6, 16)))

    return transformer(attend)


@model(2, 2)
def keras_attention():
    """keras.layers.Attention between projections."""

    def attend(y):
        q, v, k = (layers.Dense(16)(y) for _ in range(3))
        return layers.Dense(16)(layers.Attention()([q, v, k]))

    return transformer(attend)


@model(2, 2)
def windows():
    """Shifted windows (Swin)."""

    def attend(y):
        y = ops.roll(ops.reshape(y, (-1, 4, 4, 16)), (-1, -1), (1, 2))
        y = ops.transpose(ops.reshape(y, (-1, 2, 2, 2, 2, 16)), (0, 1, 3, 2, 4, 5))
        y = fused_attention(ops.reshape(y, (-1, 4, 16)))
        y = ops.transpose(ops.reshape(y, (-1, 2, 2, 2, 2, 16)), (0, 1, 3, 2, 4, 5))
        return ops.reshape(ops.roll(ops.reshape(y, (-1, 4, 4, 16)), (1, 1), (1, 2)), (-1, 16, 16))

    return transformer(attend, tokens=16)


@model(3, 2)
def detr():
    """Positions at queries and keys, cross-attention (DETR)."""
    inputs = [keras.Input((tokens, 16)) for tokens in (6, 5, 6)]
    x, y, place = inputs
    n = layers.LayerNormalization()(x)
    x = x + layers.MultiHeadAttention(2, 8)(n + place, n, n + place)
    x = x + feed(layers.LayerNormalization()(x))
    y = block(y, lambda n: layers.MultiHeadAttention(2, 8)(n, n))
    return keras.Model(inputs, y + layers.MultiHeadAttention(2, 8)(y, x, x + place))


@model(2, 2)
def causal():
    """A causal mask in operations (miniature GPT, hidden as wide as input)."""
    ids = keras.Input((6,), dtype="int32")
    x = layers.Embedding(9, 16)(ids) + layers.Embedding(6, 16)(ops.arange(6))
    mask = np.where(np.tril(np.ones((6, 6), bool)), 0, -1e9).astype("float32")

    def attend(y):
        q, k, v = (heads(layers.Dense(16)(y)) for _ in range(3))
        scores = ops.matmul(q, ops.swapaxes(k, -1, -2)) / 8**0.5 + mask
        y = ops.transpose(ops.matmul(ops.softmax(scores), v), (0, 2, 1, 3))
        return layers.Dense(16)(ops.reshape(y, (-1, 6, 16)))

    for _ in range(2):
        x = block(x, attend, hidden=16)
    return keras.Model(ids, x)


@model(mlp=4)
def mixer():
    """MLP-Mixer."""
    x = inputs = keras.Input((6, 16))
    for _ in range(2):
        y = layers.Permute((2, 1))(layers.LayerNormalization()(x))
        x = x + layers.Permute((2, 1))(feed(y, 12))
        x = x + feed(layers.LayerNormalization()(x))
    return keras.Model(inputs, x)


@model(1, 1, 1)
def mix_ffn():
    """A depthwise convolution inside the MLP (SegFormer)."""
    x = inputs = keras.Input((6, 16))
    y = layers.LayerNormalization()(x)
    x = x + layers.MultiHeadAttention(2, 8)(y, y)
    h = layers.Dense(32)(layers.LayerNormalization()(x))
    h = ops.gelu(layers.DepthwiseConv1D(3, padding="same")(h))
    return keras.Model(inputs, x + layers.Dense(16)(h))


@model(mlp=2)
def inner_norm():
    """A BatchNormalization inside the MLP (LeViT)."""
    x = inputs = keras.Input((6, 16))
    for _ in range(2):
        y = layers.ReLU()(layers.BatchNormalization()(layers.Dense(32, use_bias=False)(x)))
        x = x + layers.BatchNormalization()(layers.Dense(16, use_bias=False)(y))
    return keras.Model(inputs, x)


@model(2, 2, 1)
def spatial_reduction():
    """Keys and values of a strided convolution, and of a depthwise one (PVT)."""
    x = inputs = keras.Input((4, 4, 16))
    for reduce in (layers.Conv2D(16, 2, 2), layers.DepthwiseConv2D(2, 2)):
        y = layers.LayerNormalization()(x)
        keys = layers.LayerNormalization()(layers.Reshape((4, 16))(reduce(y)))
        y = layers.MultiHeadAttention(2, 8)(layers.Reshape((16, 16))(y), keys)
        x = x + layers.Reshape((4, 4, 16))(y)
        x = x + feed(layers.LayerNormalization()(x))
    return keras.Model(inputs, x)


class InCall(layers.Layer):
    """Attention written in `call`, with four projections and a bias from positions."""

    def __init__(self, attend):
        super().__init__()
        self.attend = attend
        self.q, self.k, self.v, self.out = (layers.Dense(16) for _ in range(4))
        self.places = keras.Sequential([layers.Dense(8, "relu"), layers.Dense(2)])

    def build(self, shape):
        for dense in (self.q, self.k, self.v, self.out):
            dense.build(shape)
        self.places.build((None, 2))

    def call(self, x):
        q, k, v = (heads(dense(x)) for dense in (self.q, self.k, self.v))
        y = ops.transpose(self.attend(self, q, k, v), (0, 2, 1, 3))
        return self.out(ops.reshape(y, (-1, 6, 16)))


def attend_with(bias):
    def attend(layer, q, k, v):
        scores = ops.einsum("...qd,...kd->...qk", q, k) / 8**0.5 + bias(layer, q)
        return ops.einsum("...qk,...kd->...qd", ops.softmax(scores), v)

    return transformer(lambda y: InCall(attend)(y))


@model(2, 2)
def bare_keys():
    """Einsum with an ellipsis, a bias with bare keys (`x[None]`)."""
    return attend_with(lambda layer, q: ops.mean(q[:, 0], -1)[..., None][None][0][:, None])


@model(2, 4)
def bias_of_a_network():
    """Relative positions of a small network (SwinV2)."""

    def bias(layer, q):
        places = layer.places(ops.ones((36, 2)))
        return ops.transpose(ops.reshape(places, (6, 6, 2)), (2, 0, 1))

    return attend_with(bias)


@model(2, 2)
def bias_of_queries():
    """Relative positions that depend on queries (SAM, BotNet)."""
    table = np.ones((6, 6, 8), "float32")
    return attend_with(lambda layer, q: ops.einsum("bhqd,qkd->bhqk", q, table))


@model(2, 2)
def sliding_window():
    """Causal attention in a sliding window."""
    ago = np.arange(6)[:, None] - np.arange(6)
    mask = np.where((ago >= 0) & (ago < 3), 0, -1e9).astype("float32")
    return attend_with(lambda layer, q: mask)


@model(2, 2)
def other_weights_of_scores():
    """A softmax in operations, and sigmoid attention."""

    def softmax(scores):
        weights = ops.exp(scores - ops.max(scores, -1, keepdims=True))
        return weights / ops.sum(weights, -1, keepdims=True)

    x = inputs = keras.Input((6, 16))
    for weigh in (softmax, ops.sigmoid):

        def attend(layer, q, k, v, weigh=weigh):
            return ops.matmul(weigh(ops.matmul(q, ops.swapaxes(k, -1, -2)) / 8**0.5), v)

        x = block(x, InCall(attend))
    return keras.Model(inputs, x)


@model(2, 2)
def added_positions():
    """Positions of batch size 1 in `layers.Add`."""

    class Attend(InCall):
        def call(self, x):
            q, k, v = (
                ops.reshape(dense(x), (ops.shape(x)[0], -1, 2, 8))
                for dense in (self.q, self.k, self.v)
            )
            weights = ops.softmax(ops.einsum("bqhd,bkhd->bhqk", q, k))
            y = ops.einsum("bhqk,bkhd->bqhd", weights, v)
            return self.out(ops.reshape(y, (ops.shape(x)[0], -1, 16)))

    inputs = keras.Input((6, 16))
    places = layers.Lambda(lambda x: ops.mean(x, axis=0, keepdims=True))(inputs)
    x = layers.Add()([inputs, places])
    for _ in range(2):
        x = block(x, Attend(None))
    return keras.Model(inputs, x)


class Held(layers.Layer):
    """Attention and an MLP whose projections are weights of the layer."""

    def build(self, shape):
        self.q, self.k, self.v, self.out = (self.add_weight(shape=(16, 16)) for _ in range(4))
        self.up, self.down = self.add_weight(shape=(16, 32)), self.add_weight(shape=(32, 16))

    def call(self, x):
        q, k, v = (heads(ops.matmul(x, weight)) for weight in (self.q, self.k, self.v))
        y = ops.matmul(ops.softmax(ops.matmul(q, ops.swapaxes(k, -1, -2)) / 8**0.5), v)
        x = x + ops.reshape(ops.transpose(y, (0, 2, 1, 3)), (-1, 6, 16)) @ self.out
        return x + ops.gelu(x @ self.up) @ self.down


@model(1, 1)
def weights_of_a_layer():
    """Projections that are weights of a layer (`matmul(x, self.weight)`)."""
    inputs = keras.Input((6, 16))
    return keras.Model(inputs, Held()(inputs))


@model(2, 2)
def rotary_list():
    """Rotary positions of a list of queries and keys (RoFormer)."""

    class Rotary(layers.Layer):
        def call(self, tensors):
            angles = np.arange(6)[:, None] / 10 ** np.repeat(np.arange(4) / 4, 2)
            places = [1] * (ops.ndim(tensors[0]) - 3)
            angles = angles.reshape(6, *places, 8).astype("float32")
            turned = [ops.stack([-x[..., 1::2], x[..., ::2]], ops.ndim(x)) for x in tensors]
            return [
                x * np.cos(angles) + ops.reshape(y, ops.shape(x)) * np.sin(angles)
                for x, y in zip(tensors, turned, strict=True)
            ]

    def attend(y):
        q, k, v = (ops.reshape(layers.Dense(16)(y), (-1, 6, 2, 8)) for _ in range(3))
        y = ops.dot_product_attention(*Rotary()([q, k]), v)
        return layers.Dense(16)(ops.reshape(y, (-1, 6, 16)))

    return transformer(attend)


@model(1)
def gated_delta():
    """The gated delta rule, in one chunk (Qwen3-Next)."""
    inputs = keras.Input((6, 16))
    qkv = ops.transpose(ops.reshape(layers.Dense(48)(inputs), (-1, 6, 3, 2, 8)), (2, 0, 3, 1, 4))
    q, k, v = ops.unstack(qkv, 3)
    decay, rate = (
        ops.transpose(layers.Dense(2, activation)(inputs), (0, 2, 1))
        for activation in ("log_sigmoid", "sigmoid")
    )
    total, rate = ops.cumsum(decay, axis=-1), rate[..., None]
    decay = ops.exp(total[..., None] - total[..., None, :])
    known = ops.einsum("bhid,bhjd->bhij", k * rate, k) * decay * np.tri(6, k=-1, dtype="float32")
    # The inverse of 1 + known, as a product.
    inverse, power = ops.subtract(np.eye(6, dtype="float32"), known), known
    for _ in range(2):
        power = power @ power
        inverse = inverse + inverse @ power
    v = ops.einsum("bhij,bhjd->bhid", inverse, v * rate)
    scores = ops.einsum("bhid,bhjd->bhij", q, k) * decay * np.tri(6, dtype="float32")
    y = ops.transpose(ops.einsum("bhij,bhjd->bhid", scores, v), (0, 2, 1, 3))
    return keras.Model(inputs, inputs + layers.Dense(16)(ops.reshape(y, (-1, 6, 16))))


@model(1, 1)
def modern_decoder():
    """Grouped queries with rotary positions, SwiGLU, RMSNorm (Llama by hand)."""

    def rotate(t):
        angles = np.arange(6)[:, None] / 10 ** np.tile(np.arange(4) / 4, 2)
        cos, sin = (f(angles)[:, None].astype("float32") for f in (np.cos, np.sin))
        first, second = ops.split(t, 2, axis=-1)
        return t * cos + ops.concatenate([-second, first], axis=-1) * sin

    x = inputs = keras.Input((6, 16))
    y = layers.RMSNormalization()(x)
    q = rotate(ops.reshape(layers.Dense(32)(y), (-1, 6, 4, 8)))
    k, v = (ops.reshape(layers.Dense(16)(y), (-1, 6, 2, 8)) for _ in range(2))
    k, v = (ops.repeat(t, 2, axis=2) for t in (rotate(k), v))
    weights = ops.softmax(ops.einsum("bqhd,bkhd->bhqk", q, k) / 8**0.5)
    y = ops.reshape(ops.einsum("bhqk,bkhd->bqhd", weights, v), (-1, 6, 32))
    x = x + layers.Dense(16)(y)
    y = layers.RMSNormalization()(x)
    y = layers.Dense(16)(layers.Dense(32, "silu")(y) * layers.Dense(32)(y))
    return keras.Model(inputs, x + y)


@model(1)
def separable():
    """Separable attention (MobileViTV2)."""
    inputs = keras.Input((4, 9, 16))
    y = layers.Conv2D(33, 1)(layers.GroupNormalization(1)(inputs))
    query, key, value = y[..., :1], y[..., 1:17], y[..., 17:]
    context = ops.sum(key * ops.softmax(query, axis=2), axis=2, keepdims=True)
    return keras.Model(inputs, inputs + layers.Conv2D(16, 1)(ops.relu(value) * context))


@model(1)
def cross_of_own_token():
    """Keys of the own token and of another branch (CrossViT)."""
    inputs = keras.Input((6, 16)), keras.Input((4, 16))
    own, other = (layers.Dense(16)(x) for x in inputs)
    keys = layers.Concatenate(axis=1)([own[:, :1], other])
    return keras.Model(inputs, layers.MultiHeadAttention(2, 8)(own[:, :1], keys))


@model(0, 1, 1)
def local_feed_forward():
    """A residual around the depthwise convolution of an MLP (CMT)."""
    inputs = keras.Input((6, 6, 8))
    h = ops.gelu(layers.BatchNormalization()(layers.Conv2D(32, 1)(inputs)))
    d = layers.BatchNormalization()(layers.DepthwiseConv2D(3, padding="same")(h))
    return keras.Model(inputs, inputs + layers.Conv2D(8, 1)(h + ops.gelu(d)))


@model()
def not_mlps():
    """Channel gates, channels split for convolutions (C2f of YOLO)."""
    x = inputs = keras.Input((8, 8, 16))
    for sigmoid in (layers.Activation("sigmoid"), layers.Activation("hard_sigmoid")):
        y = layers.GlobalAveragePooling2D(keepdims=True)(x)
        x = x * sigmoid(layers.Conv2D(16, 1)(layers.Conv2D(4, 1, activation="relu")(y)))
    first, second = ops.split(ops.silu(layers.Conv2D(16, 1)(x)), 2, axis=-1)
    third = layers.Conv2D(8, 3, padding="same", activation="silu")(second)
    x = layers.Conv2D(16, 1)(layers.Concatenate()([first, second, second + third]))
    return keras.Model(inputs, x)


@model(1, 1)
def pooler():
    """A tanh pooler before the classes (BERT)."""
    inputs = keras.Input((6, 16))
    x = layers.LayerNormalization()(inputs + layers.MultiHeadAttention(2, 8)(inputs, inputs))
    return keras.Model(inputs, layers.Dense(3)(layers.Dense(16, "tanh")(x[:, 0])))


@model(mlp=1)
def classifier_head():
    """Convolutions, and an MLP that gives the output (VGG)."""
    inputs = keras.Input((8, 8, 3))
    x = layers.Flatten()(layers.Conv2D(4, 3, activation="relu")(inputs))
    return keras.Model(inputs, layers.Dense(10)(layers.Dense(256, "relu")(x)))


@model(mlp=2)
def gates():
    """Gated MLPs (GLU, gMLP)."""
    x = inputs = keras.Input((6, 16))
    u, v = ops.split(layers.Dense(64)(layers.LayerNormalization()(x)), 2, axis=-1)
    x = x + layers.Dense(16)(ops.silu(u) * v)
    u, v = ops.split(layers.Dense(64, "gelu")(layers.LayerNormalization()(x)), 2, axis=-1)
    v = layers.Permute((2, 1))(layers.Dense(6)(layers.Permute((2, 1))(v)))
    return keras.Model(inputs, x + layers.Dense(16)(u * v))


class Block(layers.Layer):
    """Written as users do: weights on the left, `training` for all."""

    def __init__(self, width=16):
        super().__init__()
        self.norms = [layers.LayerNormalization() for _ in range(2)]
        self.attention = layers.MultiHeadAttention(2, width // 2)
        self.mlp = keras.Sequential([layers.Dense(2 * width, "gelu"), layers.Dense(width)])
        self.scale = self.add_weight(shape=(width,), initializer="ones")

    def call(self, x, cache=None, training=None):
        y = self.norms[0](x, training=training)
        x = x + self.scale * self.attention(y, y, training=training)
        y = self.mlp(self.norms[1](x), training=training)
        self.add_loss(1e-3 * ops.mean(ops.square(y)))
        return x + self.scale * y, cache


class Subclassed(keras.Model):
    def __init__(self):
        super().__init__()
        self.blocks = [Block(), Block()]

    def call(self, x, memory=None, training=None):
        cache = None
        for inner in self.blocks:
            x, cache = inner(x, cache)
        return x


@model(2, 2)
def subclassed():
    """Subclassed: weights on the left, losses, None outputs, an optional argument."""
    made = Subclassed()
    made(np.ones((2, 6, 16), "float32"))
    return made


class Parts(keras.Model):
    def __init__(self):
        super().__init__()
        self.encoder = transformer(fused_attention, depth=1)
        self.decoder = transformer(fused_attention, depth=1)

    def train_step(self, data):
        return {}


@model(2, 2)
def masked_autoencoder():
    """A model with a train_step of its own and no call."""
    return Parts()


@model(1, 1)
def time_distributed():
    """TimeDistributed."""
    x = keras.Input((3, 6, 16))
    return keras.Model(x, layers.TimeDistributed(transformer(fused_attention, depth=1))(x))


def counts(made):
    """How many of each kind are listed, and how many are written."""
    found = find_sites(made, KINDS).sites
    # The two branches of a gate are one MLP: they have one second projection.
    kinds = {
        (s.structure, id(getattr(s, "second", None) or s.layer)): not (
            s.skip_reason or s.default_skip
        )
        for s in found
    }
    listed = [sum(structure == kind for structure, _ in kinds) for kind in KINDS]
    written = [
        sum(key[0] == kind and is_written for key, is_written in kinds.items()) for kind in KINDS
    ]
    return listed, written


def installed():
    """The names of the models whose library is there."""
    hub = importlib.util.find_spec("keras_hub") is not None
    return [name for name in MODELS if hub or not name.startswith("keras_hub")]


def row(name):
    """A model's line of the table."""
    make, exist = MODELS[name]
    with warnings.catch_warnings():
        # Keras's, of sizes that are this small.
        warnings.simplefilter("ignore")
        listed, written = counts(make())
    cells = [
        " / ".join(map(str, three)) if any(three) else ""
        for three in zip(exist, listed, written, strict=True)
    ]
    return f"| {name} | {' | '.join(cells)} |"


def main():
    head = (
        "# Compatibility\n\nHow many attentions, MLPs and depthwise convolutions models have, how "
        "many of them `initialize` lists, and how\nmany it writes: exist / listed / written. The "
        "report gives the reason for each one that is not written. Small models of\neach kind, the "
        "same on all three backends; made by `python tests/helpers/zoo.py`.\n\n"
    )
    lines = ["| model | attention | MLP | depthwise |", "|---|---|---|---|"]
    lines += [row(name) for name in installed()]
    TABLE.parent.mkdir(exist_ok=True)
    TABLE.write_text(head + "\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
