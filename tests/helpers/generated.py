"""Models from a grammar: blocks of several kinds, put together in several ways."""

import keras
from keras import layers, ops

from keras_mimetic.layers import MimeticMLPBlock, MimeticStateSpace

LENGTH = 5
KINDS = ("mlp", "activation", "gated", "mha", "fused", "separate", "depthwise", "block", "space")
NORMS = (None, "LayerNormalization", "BatchNormalization", "RMSNormalization")
STYLES = ("functional", "subclassed", "nested", "sequential")
POLICIES = ("float32", "mixed_bfloat16", "bfloat16", "float16")


@keras.saving.register_keras_serializable(package="tests")
class Block(layers.Layer):
    """A residual block; `twice` calls it two times with the same weights."""

    def __init__(self, kind, heads, head_dim, hidden, norm, twice, frozen, **kwargs):
        super().__init__(**kwargs)
        self.options = (kind, heads, head_dim, hidden, norm, twice, frozen)
        width, dtype = heads * head_dim, self.dtype_policy
        self.heads, self.kind, self.twice = heads, kind, twice
        self.norm = getattr(layers, norm)(dtype=dtype) if norm else None

        def dense(units, **options):
            return layers.Dense(units, dtype=dtype, **options)

        # Lists and dicts hold layers, too.
        self.made, self.inner = [], {}
        if kind in ("mlp", "activation", "gated"):
            activation = {"mlp": "gelu", "activation": None, "gated": "silu"}[kind]
            self.made = [dense(hidden, activation=activation), dense(width)]
            self.made += [dense(hidden)] if kind == "gated" else []
        elif kind == "mha":
            self.inner["attend"] = layers.MultiHeadAttention(heads, head_dim, dtype=dtype)
        elif kind == "fused":
            self.made = [dense(3 * width), dense(width)]
        elif kind == "separate":
            self.made = [dense(width) for _ in range(4)]
        elif kind == "depthwise":
            self.inner["mix"] = layers.DepthwiseConv1D(3, padding="same", dtype=dtype)
        elif kind == "block":
            self.inner["mlp"] = MimeticMLPBlock(hidden, dtype=dtype)
        elif kind == "space":
            self.inner["space"] = MimeticStateSpace(2, width, dtype=dtype)
        for layer in self.made[:1] if frozen else ():
            layer.trainable = False

    def build(self, shape):
        # Symbolic: no values flow.
        keras.Function(x := keras.Input(shape[1:], dtype=self.compute_dtype), self.call(x))
        self.built = True

    def call(self, x):
        for _ in range(2 if self.twice else 1):
            x = x + self._once(x if self.norm is None else self.norm(x))
        return x

    def _once(self, x):
        if self.kind in ("mlp", "activation"):
            hidden = self.made[0](x)
            return self.made[1](ops.relu(hidden) if self.kind == "activation" else hidden)
        if self.kind == "gated":
            return self.made[1](self.made[0](x) * self.made[2](x))
        if self.kind == "mha":
            return self.inner["attend"](x, x)
        if self.kind in ("fused", "separate"):
            *projections, output = self.made
            found = [project(x) for project in projections]
            q, k, v = ops.split(found[0], 3, axis=-1) if len(found) == 1 else found
            q, k, v = (self._split(y) for y in (q, k, v))
            mixed = ops.matmul(ops.softmax(ops.matmul(q, ops.swapaxes(k, -1, -2))), v)
            return output(ops.reshape(ops.swapaxes(mixed, 1, 2), (-1, LENGTH, x.shape[-1])))
        return next(iter(self.inner.values()))(x)

    def _split(self, x):
        shape = (-1, LENGTH, self.heads, x.shape[-1] // self.heads)
        return ops.swapaxes(ops.reshape(x, shape), 1, 2)

    def compute_output_shape(self, shape):
        return shape

    def get_config(self):
        names = ("kind", "heads", "head_dim", "hidden", "norm", "twice", "frozen")
        return {**super().get_config(), **dict(zip(names, self.options, strict=True))}


@keras.saving.register_keras_serializable(package="tests")
class Tower(keras.Model):
    """A subclassed model of blocks."""

    def __init__(self, width, blocks, policy, **kwargs):
        super().__init__(dtype=policy, **kwargs)
        self.options = {"width": width, "blocks": blocks, "policy": policy}
        self.blocks = [Block(*block, dtype=policy) for block in blocks]

    def call(self, x):
        for block in self.blocks:
            x = block(x)
        return x

    def get_config(self):
        return self.options

    def get_build_config(self):
        return {"input_shape": (None, LENGTH, self.options["width"])}


def make(style, heads, head_dim, policy, blocks):
    """Return a model of blocks, each `(kind, hidden, norm, twice, frozen)`."""
    width = heads * head_dim
    blocks = [(kind, heads, head_dim, *rest) for kind, *rest in blocks]
    if style == "subclassed":
        model = Tower(width, blocks, policy)
        model(ops.zeros((1, LENGTH, width)))
        return model
    x = inputs = keras.Input((LENGTH, width), dtype=keras.DTypePolicy(policy).compute_dtype)
    made = [Block(*block, dtype=policy) for block in blocks]
    if style == "sequential":
        return keras.Sequential([inputs, *made])
    for block in made:
        if style == "nested":
            y = keras.Input(x.shape[1:], dtype=x.dtype)
            x = keras.Model(y, block(y))(x)
        else:
            # The layers of the block become those of the model.
            x = block.call(x)
    return keras.Model(inputs, x)
