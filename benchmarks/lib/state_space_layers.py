"""The layers that state_space.py compares: ours, step by step, and that of transformers."""

import functools
import importlib.metadata

import keras
from keras import ops

from keras_mimetic.layers import MimeticStateSpace

KINDS = FORWARD, TRAINING = ("forward", "training step")
# Names of transformers' layers start with the second and end with the chunk size.
GROUPS = OURS, TRANSFORMERS, NAIVE = ("ours", "transformers", "naive")
# The graph of all positions takes about 0.2 MiB each, and its time grows with their number.
LONGEST_NAIVE_TRAINING = 2048


def layers(args):
    """Return the names of the layers, ours first, and a note about transformers."""
    naive = [NAIVE] if NAIVE in args.beside else []
    if TRANSFORMERS not in args.beside:
        return [OURS, *naive], "without transformers"
    if keras.backend.backend() != "torch":
        return [OURS, *naive], "without transformers (its layer needs the backend torch)"
    try:
        import transformers.models.mamba2.modeling_mamba2  # noqa: F401
    except ImportError:
        return [OURS, *naive], "without transformers (it, or its Mamba-2, is not installed)"
    theirs = [f"{TRANSFORMERS} {chunk}" for chunk in args.their_chunks]
    version = importlib.metadata.version("transformers")
    return [OURS, *theirs, *naive], f"beside transformers {version}"


def is_run(name, kind, length):
    if name != NAIVE or kind == FORWARD:
        return True
    return keras.backend.backend() == "torch" and length <= LONGEST_NAIVE_TRAINING


def functions(name, args):
    """Return by kind the function that computes it from the inputs."""
    layer = MimeticStateSpace(args.state_dim, args.head_dim, seed=0)
    layer.build((None, None, args.width))
    backend = keras.backend.backend()
    if name.startswith(TRANSFORMERS):
        model = mixer(layer, int(name.split()[-1]))
    elif name == OURS:
        model = layer
    else:
        model = step_by_step(layer)
    if backend == "torch":
        return on_torch(model, [*(layer if name == NAIVE else model).parameters()])
    if name == NAIVE:
        return {FORWARD: model}
    return on_jax(layer) if backend == "jax" else on_tensorflow(layer)


def mixer(layer, chunk):
    """Return the layer of transformers with the weights of ours."""
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


def step_by_step(layer):
    step = compiled(layer.step)

    def forward(x):
        state = layer.get_initial_state(x.shape[0])
        outputs = []
        for position in range(x.shape[1]):
            output, state = step(x[:, position], state)
            outputs.append(output)
        # JAX would take longer to stack them, outside compiled code, than for the steps.
        return ops.stack(outputs, axis=1) if keras.backend.backend() == "torch" else outputs

    return forward


def compiled(function):
    """Compile as Keras's `fit` does by default: on all backends but torch."""
    if keras.backend.backend() == "jax":
        import jax

        return jax.jit(function)
    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        return tf.function(function, jit_compile=True)
    return function


def on_torch(model, weights):
    import torch

    def forward(x):
        with torch.no_grad():
            return model(x)

    def training(x):
        model(x).square().mean().backward()
        gradients = [weight.grad for weight in weights]
        for weight in weights:
            weight.grad = None
        return gradients

    return {FORWARD: forward, TRAINING: training}


def on_jax(layer):
    import jax

    def call(weights, x):
        return layer.stateless_call(weights, [], x)[0]

    def loss(weights, x):
        return ops.mean(ops.square(call(weights, x)))

    weights = [weight.value for weight in layer.trainable_variables]
    return {
        FORWARD: functools.partial(jax.jit(call), weights),
        TRAINING: functools.partial(jax.jit(jax.grad(loss)), weights),
    }


def on_tensorflow(layer):
    import tensorflow as tf

    def training(x):
        with tf.GradientTape() as tape:
            loss = ops.mean(ops.square(layer(x)))
        return tape.gradient(loss, [weight.value for weight in layer.trainable_variables])

    return {FORWARD: compiled(layer), TRAINING: compiled(training)}
