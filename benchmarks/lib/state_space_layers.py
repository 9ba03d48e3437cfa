"""What state_space.py and gpu.py measure of a state space, and the layer of transformers."""

import functools
import importlib.metadata
import importlib.util

import keras
from keras import ops


def mixer_version():
    """Return the version of transformers; `None` where it is not there, or without torch."""
    if keras.backend.backend() != "torch" or importlib.util.find_spec("transformers") is None:
        return None
    return importlib.metadata.version("transformers")


def mixer(layer, chunk):
    """Return the layer of transformers in PyTorch, with the weights of ours."""
    import torch
    from transformers import Mamba2Config
    from transformers.models.mamba2.modeling_mamba2 import Mamba2Mixer

    config = Mamba2Config(
        hidden_size=layer.in_projection.kernel.shape[0],
        num_heads=layer.num_heads,
        head_dim=layer.head_dim,
        state_size=layer.state_dim,
        expand=layer.expand,
        n_groups=layer.num_groups,
        conv_kernel=layer.conv_width,
        use_bias=layer.use_bias,
        chunk_size=chunk,
    )
    theirs = Mamba2Mixer(config, 0).to(layer.skip.value.device)
    with torch.no_grad():
        for weight, ours in (
            (theirs.in_proj.weight, layer.in_projection.kernel.value.T),
            (theirs.conv1d.weight, layer.conv_kernel.value.T[:, None]),
            (theirs.conv1d.bias, layer.conv_bias.value),
            (theirs.A_log, layer.a_log.value),
            (theirs.dt_bias, layer.dt_bias.value),
            (theirs.D, layer.skip.value),
            (theirs.norm.weight, layer.norm_scale.value),
            (theirs.out_proj.weight, layer.out_projection.kernel.value.T),
        ):
            weight.copy_(ours)
    return theirs


def functions(model):
    """Return the forward pass and the training step of a layer, as functions of the inputs."""
    if keras.backend.backend() == "torch":
        return _on_torch(model)
    return _on_jax(model) if keras.backend.backend() == "jax" else _on_tensorflow(model)


def _on_torch(model):
    import torch

    weights = [*model.parameters()]

    def forward(x):
        with torch.no_grad():
            return model(x)

    def training(x):
        model(x).square().mean().backward()
        gradients = [weight.grad for weight in weights]
        for weight in weights:
            weight.grad = None
        return gradients

    return {"forward": forward, "training step": training}


def _on_jax(layer):
    import jax

    def call(weights, x):
        return layer.stateless_call(weights, [], x)[0]

    def loss(weights, x):
        return ops.mean(ops.square(call(weights, x)))

    weights = [weight.value for weight in layer.trainable_variables]
    return {
        "forward": functools.partial(jax.jit(call), weights),
        "training step": functools.partial(jax.jit(jax.grad(loss)), weights),
    }


def _on_tensorflow(layer):
    import tensorflow as tf

    def training(x):
        with tf.GradientTape() as tape:
            loss = ops.mean(ops.square(layer(x)))
        return tape.gradient(loss, [weight.value for weight in layer.trainable_variables])

    # As Keras's `fit` does by default.
    compiled = functools.partial(tf.function, jit_compile=True)
    return {"forward": compiled(layer), "training step": compiled(training)}
