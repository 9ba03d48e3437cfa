"""
Title: Training a small Vision Transformer from mimetic initial weights
Author: The keras_mimetic authors
Date created: 2026/11/25
Last modified: 2026/11/29
Description: Two starts, two learning curves, and what is in the weights.
Accelerator: None
"""

"""
## Introduction

Vision Transformers are hard to train on small data sets. *Mimetic initialization*
([Trockman and Kolter, 2023](https://arxiv.org/abs/2305.09828)) looks at the weights of trained
networks, finds simple patterns in them, and draws initial weights that already have them. It needs
no data and no extra training.

This example trains a small Vision Transformer on scikit-learn's 8x8 digits from Keras's default
weights and from mimetic ones, and looks at what training does to the weights. It runs in one to two
minutes on a CPU, with any backend.

In a clone of the repository, `pip install '.[jax,examples]'` installs what it needs.
"""

"""
## Setup
"""

import os

os.environ.setdefault("KERAS_BACKEND", "jax")  # or "torch" or "tensorflow"

import keras
import matplotlib.pyplot as plt
import numpy as np
from keras import layers
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression

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
## Train from both starts

The only difference is the call of `initialize`, after the model is built and before it is compiled.
Both models see the same images in the same order. A `StructureLogger` follows the structures
during training, for later.
"""


def train(is_mimetic, seed=0):
    keras.utils.set_random_seed(seed)
    model = make_vit()
    if is_mimetic:
        keras_mimetic.initialize(model, seed=seed)
    model.compile(
        optimizer=keras.optimizers.AdamW(2e-3, weight_decay=0.05),
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
    )
    logger = keras_mimetic.callbacks.StructureLogger(every=5)
    history = model.fit(
        x_train,
        y_train,
        batch_size=64,
        epochs=30,
        validation_data=(x_test, y_test),
        callbacks=[logger],
        verbose=0,
    )
    return logger, history.history["val_accuracy"]


runs = {"Keras's default": train(is_mimetic=False), "mimetic": train(is_mimetic=True)}

for name, (_, accuracy) in runs.items():
    plt.plot(range(1, len(accuracy) + 1), [100 * value for value in accuracy], "o-", label=name)
plt.xlabel("epoch")
plt.ylabel("test accuracy %")
plt.grid(alpha=0.3)
plt.legend()
plt.show()

"""
The mimetic weights lead. But look at what a linear model does with the same 600 images:
"""

linear = LogisticRegression(max_iter=1000).fit(x_train.reshape(600, -1), y_train)
print(f"logistic regression: {100 * linear.score(x_test.reshape(len(x_test), -1), y_test):.1f} %")

"""
Logistic regression beats the Vision Transformer from either start: this is a demonstration, on one
seed, of how to compare, and not a reason to train a Transformer on digits. What the method is worth
on images where linear models fail is in the results of the documentation.

## What was written

`initialize` finds attention, MLPs and the table of positions by following the data through the
model, changes their weights in place, and returns a report. As the last line of a cell it is a
table:
"""

keras.utils.set_random_seed(0)
model = make_vit()
report = keras_mimetic.initialize(model, seed=0)
report

"""
Each row is a weight, with its Frobenius norm before and after. Query and key, value and output are
drawn in pairs; the first matrix of each MLP gets a mean, and its bias starts below zero. The
learned positions start as sines and cosines.

`measure` reads the structures of any model, and draws them. The products of query and key weights
have a positive diagonal now, those of value and output weights a negative one, both far outside of
what untrained weights have (gray):
"""

picture = keras_mimetic.measure(model, "attention").plot()
picture

"""
## What trained networks have

Here are the products of value and output weights of a larger ViT: untrained, trained on 45,000
CIFAR-10 images for 20 epochs from Keras's default weights, and mimetic. Training puts a negative
diagonal into the first layer. It fades with depth, and is slightly positive in the last layer.
(Untrained and trained are cut from the committed picture in
`benchmarks/results/look-inside-cifar10-jpeg-q75`; `docs/hero.py` makes the figure.)

![Value-output products by layer: untrained, trained, mimetic](../docs/trained-vit.png)

## Why structures shrink

How the structures of the mimetic model changed in the training above:
"""

logger, _ = runs["mimetic"]
picture_over_time = logger.plot()
picture_over_time

"""
The attention structures and the mean become a little weaker, since initial weights exaggerate: the
identity in the product of value and output starts at -0.4 in all layers, where training from the
default put -0.17, -0.15, -0.09 and +0.05 into the four layers of the ViT above. So training moves
back toward what it makes by itself. The hidden bias is weaker at the start than at the end: it
becomes more negative. The documentation says which of these strengths were measured to help.

## What next

- `initialize(your_model, seed=0)` works on any built Keras model.
- `initialize(..., control=True)` draws random weights of the same norms, for fair comparisons.
- `reset(model, seed=1)` makes a compiled model new for the next run.
- The documentation has what is gained, and where nothing is.
"""
