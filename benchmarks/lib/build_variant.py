"""Build a model with the initial weights of a variant."""

import dataclasses
import functools
import math

import keras
import numpy as np

import keras_mimetic
from common import models
from keras_mimetic._find import find_sites
from keras_mimetic._numerics.mlp import shifted_to_mean
from keras_mimetic._numerics.random import fold_in, sample
from keras_mimetic.layers import MimeticMLPBlock
from lib import real_models
from lib.lsuv import unit_variance
from lib.plain_mlp import PLAIN_MLPS
from lib.variants import NO_STRUCTURE, Variant

# Enough for the variance of a layer's outputs, of which each image has many.
_LSUV_IMAGES = 256


def _kernel(make, **settings):
    """Return one of Keras's initializers for a seed, which must be below 2**31."""

    def initializer(seed=None):
        return make(seed=None if seed is None else seed % 2**31, **settings)

    return initializer


# Initializers for every kernel.
KERNELS = {
    "glorot": models.glorot,
    "he_normal": _kernel(keras.initializers.HeNormal),
    "truncated_normal": _kernel(keras.initializers.TruncatedNormal, stddev=0.02),
    "orthogonal": _kernel(keras.initializers.Orthogonal),
}
# A learned table as in the tutorials: an `Embedding`, uniform in +-0.05, and no norm before it.
_vit_learned = functools.partial(models.MODELS["vit"], positions="uniform", stem_norm=False)

# Functions that build a model, and the rules for `initialize`, by name.
MODELS = {
    **{name: (make, {}) for name, make in models.MODELS.items()},
    # DeiT's ViT-Ti (arXiv:2012.12877) at patches of 4 pixels.
    "vit_ti": (functools.partial(models.MODELS["vit"], width=192, depth=12, heads=3), {}),
    "vit_deep": (functools.partial(models.MODELS["vit"], depth=12), {}),
    "vit_8_blocks": (functools.partial(models.MODELS["vit"], depth=8), {}),
    # Its 1x1 convolutions stand in for an MLP.
    "convmixer": (models.MODELS["convmixer"], {r"pointwise_\d+/": "mlp"}),
    "vit_learned": (_vit_learned, {}),
    "vit_learned_deep": (functools.partial(_vit_learned, depth=12), {}),
    "vit_learned_norm": (functools.partial(_vit_learned, stem_norm=True), {}),
    "vit_learned_class_token": (functools.partial(_vit_learned, pool="class_token"), {}),
    "vit_learned_flatten": (functools.partial(_vit_learned, pool="flatten"), {}),
    "vit_no_stem_norm": (functools.partial(models.MODELS["vit"], stem_norm=False), {}),
    "convnext_layer_scale": (functools.partial(models.MODELS["convnext"], layer_scale=1e-6), {}),
    "convnext_batch_norm": (functools.partial(models.MODELS["convnext"], norm="batch_norm"), {}),
    "convnext_no_norm": (functools.partial(models.MODELS["convnext"], norm=None), {}),
    # The structure of MLPs in those over the patches alone.
    "mixer_tokens": (models.MODELS["mixer"], {r"channel_mlp_\d+/": None}),
    **{name: (make, {r"hidden_\d+/": "mlp"}) for name, make in PLAIN_MLPS.items()},
    **{name: (make, {}) for name, make in real_models.MODELS.items()},
}


def applies(model_name, variant):
    """Return whether a variant differs from all others in a model."""
    if model_name in real_models.MODELS:
        return variant.kernel == "glorot"  # `default` is what their authors draw.
    if variant.shared_bias and model_name == "convmixer":
        return False  # It has no MLP blocks.
    has = {"attention": model_name.startswith("vit"), "depthwise": model_name.startswith("conv")}
    given = [name for name in has if getattr(variant, name) is not None]
    has["position"] = model_name.startswith("vit_learned")
    if variant.position is not None:
        if not has["position"]:
            return False
        given.append("position")
    in_mlps = variant.mlp != Variant().mlp or variant.per_input or variant.shift
    return not given or any(has[name] for name in given) or in_mlps


def build_variant(model_name, variant, seed, images, width=None):
    """Build a model of `MODELS` for these images, with the initial weights of a variant."""
    if variant.shared_bias:
        return _with_shared_bias(model_name, variant, seed, images, width)
    _, rules = MODELS[model_name]
    kernels = {"kernel_initializer": KERNELS[variant.kernel], "seed": fold_in(seed, 0)}
    model = _make(model_name, images, width, **kernels)
    seed_of = {"seed": fold_in(seed, 1), "rules": rules}
    if variant.kernel != "glorot":
        _redraw_first_matrices(model, KERNELS[variant.kernel], seed)
    _shift_first_matrices(model, rules, variant.shift)
    if variant.mlp != NO_STRUCTURE:
        keras_mimetic.initialize(
            model, structures={"mlp": variant.mlp}, control=variant.mlp_control, **seed_of
        )
    norms = _attention_norms(model) if variant.keep_norms else []
    spatial = {"attention": variant.attention, "depthwise": variant.depthwise}
    spatial = {name: given for name, given in spatial.items() if given is not None}
    if spatial:
        keras_mimetic.initialize(model, structures=spatial, control=variant.control, **seed_of)
    for kernel, norm in norms:
        values = keras.ops.convert_to_numpy(kernel)
        kernel.assign(values * (norm / np.linalg.norm(values)))
    if variant.position is not None:
        rms = _rms_of_tokens(model) if variant.position == "tokens" else variant.position
        keras_mimetic.initialize(model, structures={"position": {"rms": rms}}, **seed_of)
    if variant.whole:
        keras_mimetic.initialize(model, control=variant.control, **seed_of)
    if variant.second_scale != 1:
        for layer in _blocks(model):
            layer.fc2.kernel.assign(layer.fc2.kernel * variant.second_scale)
    if variant.per_input:
        _add_means_per_input(model, rules, variant.per_input, seed)
    if variant.unit_variance:
        unit_variance(model, images.train[0][:_LSUV_IMAGES])
    return model


def _make(model_name, images, width, **arguments):
    make, _ = MODELS[model_name]
    if model_name in real_models.MODELS:
        keras.utils.set_random_seed(arguments["seed"] % 2**31)
        return make(images.shape, images.classes)
    patch = 4 if min(images.shape[:2]) >= 32 else 2
    if width is not None:
        arguments["width"] = width
    return make(images.shape, images.classes, patch=patch, **arguments)


def _with_shared_bias(model_name, variant, seed, images, width):
    """Build the same weights in a model of `SharedBiasBlock`, which `initialize` does not know."""
    plain = dataclasses.replace(variant, shared_bias=0.0)
    weights = build_variant(model_name, plain, seed, images, width).get_weights()
    block = functools.partial(SharedBiasBlock, shared_mean=variant.shared_bias)
    model = _make(model_name, images, width, block=block)
    own = [weight for weight in model.weights if not weight.path.endswith("/shared_bias")]
    for weight, values in zip(own, weights, strict=True):
        weight.assign(values)
    return model


def _redraw_first_matrices(model, initializer, seed):
    """Sample the first matrices of MLPs, which `MimeticMLPBlock` sampled by itself."""
    for number, layer in enumerate(_blocks(model)):
        kernel = layer.fc1.kernel
        drawn = initializer(seed=fold_in(seed, 2, number))(kernel.shape, kernel.dtype)
        kernel.assign(drawn)


def _attention_norms(model):
    """Return each attention kernel and its Frobenius norm."""
    layers = [x for x in model.layers if isinstance(x, keras.layers.MultiHeadAttention)]
    parts = ("query_dense", "key_dense", "value_dense", "output_dense")
    kernels = [getattr(layer, part).kernel for layer in layers for part in parts]
    return [(kernel, np.linalg.norm(keras.ops.convert_to_numpy(kernel))) for kernel in kernels]


def _rms_of_tokens(model):
    """Return the root mean square of patch embeddings for inputs of unit variance."""
    stem = next(x for x in model.layers if isinstance(x, keras.layers.Conv2D))
    kernel = keras.ops.convert_to_numpy(stem.kernel.value)
    return float(kernel.std() * math.sqrt(math.prod(kernel.shape[:-1])))


def _blocks(model):
    return [layer for layer in model.layers if isinstance(layer, MimeticMLPBlock)]


def _shift_first_matrices(model, rules, shift):
    for kernel, values, _ in _first_matrices(model, rules) if shift else ():
        kernel.assign(shifted_to_mean(values, shift / math.sqrt(values.shape[-2])))


def _add_means_per_input(model, rules, spread, seed):
    for number, (kernel, values, _) in enumerate(_first_matrices(model, rules)):
        random = sample("untruncated_normal", (kernel.shape[-2], 1), fold_in(seed, 3, number))
        kernel.assign(values + np.float32(spread * values.std()) * random)


def _first_matrices(model, rules):
    """Yield the first kernel of each MLP, its values and its bias."""
    for site in find_sites(model, ("mlp",), rules or None).sites:
        if not site.skip_reason:
            kernel = site.weights["kernel"]
            yield kernel, keras.ops.convert_to_numpy(kernel), site.bias


class SharedBiasBlock(MimeticMLPBlock):
    """An MLP block with one trainable number that is added to all hidden units.

    Directly after a LayerNorm, a mean of m standard deviations s moves all hidden units by
    m s (beta_1 + ... + beta_d) + ..., and Adam moves each beta by its rate. Here the number is
    scaled by m s d, so that it moves them as fast.
    """

    def __init__(self, hidden_dim, shared_mean, **kwargs):
        super().__init__(hidden_dim, **kwargs)
        self._shared_mean = shared_mean

    def build(self, input_shape):
        super().build(input_shape)
        kernel = self.fc1.kernel
        deviation = math.sqrt(2 / sum(kernel.shape))
        self._shared_scale = self._shared_mean * deviation * kernel.shape[0]
        # A name that has no weight decay.
        self.shared = self.add_weight(shape=(), initializer="zeros", name="shared_bias")

    def call(self, inputs, training=None):
        x = inputs if self.norm is None else self.norm(inputs)
        x = keras.ops.matmul(x, self.fc1.kernel) + self.fc1.bias + self._shared_scale * self.shared
        x = self.fc2(self.activation(x))
        return keras.ops.add(inputs, x) if self.residual else x
