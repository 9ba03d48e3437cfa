"""Mistakes that a type checker finds in code that uses the package.

mypy reads this file (`tox -e lint`) and fails if one of the comments ignores nothing.
"""

import keras

import keras_mimetic
from keras_mimetic.initializers import MimeticDepthwise, MimeticMean
from keras_mimetic.layers import MimeticMLPBlock, MimeticMultiHeadAttention


def mistakes(model: keras.Model) -> None:
    keras_mimetic.initialize(model, "mpl")  # type: ignore[arg-type]
    keras_mimetic.initialize(model, ["mlp", "depth_wise"])  # type: ignore[list-item]
    keras_mimetic.initialize(model, {"mlp": {"maen": -1.0}})  # type: ignore[arg-type]
    keras_mimetic.initialize(model, {"mlp": {"mean": "-1"}})  # type: ignore[arg-type]
    keras_mimetic.initialize(model, seeds=0)  # type: ignore[call-arg]
    print(keras_mimetic.initialize(model).left)  # type: ignore[attr-defined]
    print(keras_mimetic.measure(model).row)  # type: ignore[attr-defined]
    MimeticMean(mode="fan_inn")  # type: ignore[arg-type]
    MimeticDepthwise(0.5, gain="kears")  # type: ignore[arg-type]
    MimeticMLPBlock(256, norm="layernorm")  # type: ignore[arg-type]
    MimeticMultiHeadAttention(2, 16, query_key=0.7)  # type: ignore[arg-type]


def right(model: keras.Model) -> None:
    keras_mimetic.initialize(model, {"mlp": {"mean": -1.0}, "attention": {}}, seed=0)
    keras_mimetic.initialize(model, ["mlp"], rules={"head": None, "stem": "orthogonal"})
    MimeticMLPBlock(256, mean=-0.5, norm="before")
    MimeticMultiHeadAttention(2, 16, query_key=(0.7, 0.7))
