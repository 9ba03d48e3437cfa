"""Initialization of a model with the strengths of the structures of a trained one."""

from typing import Any

import keras

from keras_mimetic._find import check_model
from keras_mimetic._initialize import initialize
from keras_mimetic._measure import measure
from keras_mimetic._measurements import Measurements
from keras_mimetic._report import Report
from keras_mimetic._structures import Rules


def mimic(
    trained: keras.layers.Layer | Measurements,
    model: keras.layers.Layer,
    seed: int | None = None,
    rules: Rules = None,
    control: bool = False,
    dry_run: bool = False,
    force: bool = False,
    inputs: Any = None,
) -> Report:
    """Initialize a model with the strengths of structures measured in a trained one.

    Equivalent to `initialize(model, structures=measure(trained).settings(), ...)`. No weight is
    copied, so the two models may differ in width and depth.

    The strengths are the mean of the first MLP matrices and the hidden bias, noise and identity
    of attention products, the curve of sigma over depth of depthwise filters, and decay, step
    size, correlation and convolution of state spaces. Each layer and head gets the median over
    all layers and heads of `trained`. Mean and hidden bias of MLPs after normalizations are
    written into such MLPs only. Noise and identity are absolute, so attention products get the
    scale that they have in `trained`.

    A structure that `trained` has no layers for is not written. Neither are depthwise filters if
    the closed form explains no layer of `trained`. Otherwise `trained` is not checked for
    structure: an untrained model gives a mean and an identity near 0. The effect of such weights
    on training has not been measured.

    Examples:

    >>> trained = keras.saving.load_model("trained.keras")
    >>> print(keras_mimetic.mimic(trained, larger_model, seed=0))

    >>> # With rules for the trained model, and one setting changed:
    >>> settings = keras_mimetic.measure(trained, rules={"dense": "mlp"}).settings()
    >>> settings["mlp"]["hidden_bias"] = None
    >>> report = keras_mimetic.initialize(larger_model, structures=settings, seed=0)

    Args:
        trained: A trained model, or its `Measurements`.
        model: The built model to initialize in place.
        seed: As for `initialize`. This and the following arguments concern `model`.
        rules: As for `initialize`.
        control: As for `initialize`.
        dry_run: As for `initialize`.
        force: As for `initialize`.
        inputs: As for `initialize`.

    Returns:
        The `Report` of `initialize`.

    Raises:
        TypeError: If an argument has the wrong type.
        ValueError: If `trained` has no structure to read, and for what `measure` and
            `initialize` refuse.

    Reference: those of `measure` and `initialize`.
    """
    if isinstance(trained, Measurements):
        measured = trained
    else:
        check_model("trained", trained)
        measured = measure(trained)
    settings = measured.settings()
    if not settings:
        raise ValueError(
            "Argument `trained` must have MLPs, self-attention, depthwise convolutions or state "
            f"spaces whose structure can be read. Received: {measured}"
        )
    return initialize(
        model,
        structures=settings,
        seed=seed,
        rules=rules,
        control=control,
        dry_run=dry_run,
        force=force,
        inputs=inputs,
    )
