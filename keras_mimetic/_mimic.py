"""Gives a model the strengths of structures that a trained one has."""

from typing import Any

from keras_mimetic._find import check_model
from keras_mimetic._initialize import initialize
from keras_mimetic._measure import measure
from keras_mimetic._measurements import Measurements
from keras_mimetic._report import Report


def mimic(
    trained: Any,
    model: Any,
    seed: int | None = None,
    rules: Any = None,
    control: bool = False,
    dry_run: bool = False,
    force: bool = False,
    inputs: Any = None,
) -> Report:
    """Initializes a model with the strengths of structures measured in a trained one.

    These are the mean of MLPs' first matrices and their hidden bias, noise and
    identity of the products of attention weights, the curve of sigma over
    depth of depthwise convolutions, and decay, step, correlation and (the identity
    or not) convolution of state spaces:
    `measure(trained).settings()`, which says how each is read. The two models may
    differ in width and depth; no single weight is copied. It is
    `initialize(model, structures=measure(trained).settings(), ...)`.

    Every MLP and every head gets the same strengths, the medians. Noise and
    identity are absolute, so that the products of attention get the scale that
    they have in `trained`, where it also comes from how that was initialized
    (with Keras's default it depends on heads and key_dim).

    A structure for which `trained` has no place is not written, and neither are
    depthwise filters if the closed form fits no layer of `trained`. For the
    others it is not asked whether `trained` shows the structure: of an untrained
    model a mean and an identity near 0 are read. What such weights are worth in
    training is not yet measured.

    Examples:

    >>> trained = keras.saving.load_model("small.keras")
    >>> print(keras_mimetic.mimic(trained, larger_model, seed=0))

    >>> # With rules for the trained model, and other settings besides:
    >>> settings = keras_mimetic.measure(trained, rules={"pointwise": "mlp"}).settings()
    >>> settings["mlp"]["hidden_bias"] = None
    >>> keras_mimetic.initialize(larger_model, structures=settings, seed=0)

    Args:
        trained: A trained model, or the `Measurements` of one.
        model: The built model to be initialized, in place.
        seed: As for `initialize`; so are all that follow, and they are about
            `model`, not about `trained`.
        rules: See `initialize`. What `trained` needs, `measure` takes.
        control: See `initialize`.
        dry_run: See `initialize`.
        force: See `initialize`.
        inputs: See `initialize`.

    Returns:
        The `Report` of `initialize`; its notes tell the strengths.

    Raises:
        TypeError: for an argument of the wrong type.
        ValueError: for what `measure` and `initialize` refuse, and for a
            `trained` without any structure to read.

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
