"""Small models of the kinds that people have, and what the finder makes of them.

    python tests/zoo.py

writes docs/compatibility.md; test_compatibility.py asks that every backend gives that table.
"""

import importlib.util
import pathlib
import warnings

import keras
import numpy as np
from keras import layers, ops

from keras_mimetic._find import find_sites

KINDS = ("attention", "mlp", "depthwise")
TABLE = pathlib.Path(__file__).parent.parent / "docs" / "compatibility.md"

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


class Loop(layers.Layer):
    """A block that `keras.ops.scan` calls for each frame."""

    def __init__(self):
        super().__init__()
        self.block = transformer(fused_attention, depth=1)

    def compute_output_spec(self, x):
        return keras.KerasTensor((x.shape[0], x.shape[1], 3), x.dtype)

    def call(self, x):
        def step(carry, frame):
            y = self.block(frame)
            return carry + y, y

        frames = ops.transpose(x, (1, 0, 2, 3))
        _, y = ops.scan(step, ops.zeros((2, 3)), frames)
        return ops.transpose(y, (1, 0, 2))


@model(1, 1)
def scan():
    """keras.ops.scan."""
    x = keras.Input((3, 6, 16), batch_size=2)
    return keras.Model(x, Loop()(x))


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
        "many of them `initialize` lists, and how\nmany it writes: exist / listed / written. What "
        "is listed and not written has a reason in the report. Small models of\neach kind, the "
        "same on all three backends; made by `python tests/zoo.py`.\n\n"
    )
    lines = ["| model | attention | MLP | depthwise |", "|---|---|---|---|"]
    lines += [row(name) for name in installed()]
    TABLE.parent.mkdir(exist_ok=True)
    TABLE.write_text(head + "\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
