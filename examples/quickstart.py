"""
Title: Training a small Vision Transformer with mimetic initialization
Author: The keras_mimetic authors
Date created: 2026/11/25
Last modified: 2026/11/25
Description: Start a Vision Transformer from weights with the structure of trained ones.
Accelerator: None
"""

"""
## Introduction

Vision Transformers are hard to train on small data sets. *Mimetic initialization*
([Trockman and Kolter, 2023](https://arxiv.org/abs/2305.09828)) looks at the weights of trained
networks, finds simple patterns in them, and draws initial weights that already have them. It needs
no data and no extra training.

This example trains a small Vision Transformer on scikit-learn's 8x8 digits from Keras's default
weights and from mimetic ones, and looks at what training does to the weights. It runs in about a
minute on a CPU, with any backend.

In a clone of the repository, `pip install '.[jax,examples]'` installs what it needs.
"""

"""
## Setup
"""

import os

os.environ.setdefault("KERAS_BACKEND", "jax")  # or "torch" or "tensorflow"

import keras
import numpy as np
from keras import layers
from sklearn.datasets import load_digits

import keras_mimetic

"""
## Data

1,797 images of 8x8 pixels. We train on 600 of them: with few data, a good start matters.
"""

digits = load_digits()
images = (digits.images[..., None] / 8.0 - 1.0).astype("float32")
labels = digits.target
order = np.random.default_rng(0).permutation(len(images))
images, labels = images[order], labels[order]
x_train, y_train = images[:600], labels[:600]
x_test, y_test = images[600:], labels[600:]

"""
## A small Vision Transformer

Plain Keras layers: patches of 2x2 pixels, four blocks of attention and MLP, each after a
LayerNormalization.
"""


class Positions(layers.Layer):
    """Adds a learned embedding of its position to each patch."""

    def build(self, input_shape):
        self.embedding = self.add_weight(shape=input_shape[1:], initializer="uniform")

    def call(self, inputs):
        return inputs + self.embedding


def make_vit(width=48, depth=4, heads=3):
    inputs = keras.Input((8, 8, 1))
    x = layers.Conv2D(width, 2, strides=2)(inputs)
    x = layers.Reshape((-1, width))(x)
    x = Positions()(layers.LayerNormalization()(x))
    for _ in range(depth):
        y = layers.LayerNormalization()(x)
        x = x + layers.MultiHeadAttention(heads, width // heads)(y, y)
        y = layers.LayerNormalization()(x)
        y = layers.Dense(4 * width, activation="gelu")(y)
        x = x + layers.Dense(width)(y)
    x = layers.GlobalAveragePooling1D()(layers.LayerNormalization()(x))
    return keras.Model(inputs, layers.Dense(10)(x))


"""
## One call

`initialize` finds attention and MLPs by following the data through the model, and changes
their weights in place. The report says what it did: query and key, value and output are drawn in
pairs, and the MLPs get a mean and a hidden bias below zero.
"""

keras.utils.set_random_seed(0)
model = make_vit()
report = keras_mimetic.initialize(model, seed=0)
print(report)

"""
## Train from both starts

Both models see the same images in the same order. A `StructureLogger` follows the structures
during training.
"""


def train(is_mimetic, seed):
    keras.utils.set_random_seed(seed)
    model = make_vit()
    if is_mimetic:
        keras_mimetic.initialize(model, seed=seed)
    before = keras_mimetic.measure(model)
    model.compile(
        optimizer=keras.optimizers.AdamW(2e-3, weight_decay=0.05),
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
    )
    logger = keras_mimetic.callbacks.StructureLogger(every=2)
    history = model.fit(
        x_train,
        y_train,
        batch_size=64,
        epochs=12,
        validation_data=(x_test, y_test),
        callbacks=[logger],
        verbose=0,
    ).history
    return model, before, logger, history["val_accuracy"]


runs = {name: train(name == "mimetic", seed=0) for name in ("default", "mimetic")}
for name, (_, _, _, accuracy) in runs.items():
    print(f"{name:8s}", " ".join(f"{100 * value:5.1f}" for value in accuracy))

"""
The rows are the test accuracy after each epoch. This is one seed and a toy data set: it shows
how to compare, not what the method is worth. For that, see the benchmarks of the repository.

## Look inside

`measure` shows the structures in the weights of any model. Here is the model that started from
the default weights, before and after its training: the products of value and output weights
(W_V W_O) in trained networks often have a negative diagonal, which mimetic initialization writes
from the beginning. A dozen epochs on 600 images change weights only a little; the documentation
shows networks that were trained for longer.
"""

trained, before, _, _ = runs["default"]
measured = keras_mimetic.measure(trained)
print(measured)
picture = measured.plot(before=before)
picture

"""
How the structures of the mimetic model changed during its training:
"""

_, _, logger, _ = runs["mimetic"]
picture_over_time = logger.plot()
picture_over_time

"""
## What next

- `initialize(your_model, seed=0)` works on any built Keras model: ViT, ConvNeXt, GPT.
- `initialize(..., control=True)` draws random weights of the same norms, for fair comparisons.
"""
