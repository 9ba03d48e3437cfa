"""Writes block_BACKEND.keras and outputs.npz: `KERAS_BACKEND=... python tests/golden/make.py`.

A model with a block, saved under each backend; the tests load all of them
under every backend and compare outputs. Save with the oldest supported Keras.
"""

import pathlib

import keras
import numpy as np

from keras_mimetic.layers import MimeticMLPBlock

HERE = pathlib.Path(__file__).parent


def model():
    return keras.Sequential(
        [
            keras.Input((3, 6)),
            MimeticMLPBlock(
                10,
                mean=-1,
                norm="layer_norm",
                residual=True,
                hidden_bias=-0.5,
                dropout=0.1,
                seed=11,
            ),
            MimeticMLPBlock(
                8,
                4,
                activation="relu",
                mean=-0.1,
                hidden_bias=0,
                fc2_initializer="he_normal",
                seed=12,
            ),
        ]
    )


def inputs():
    return np.linspace(-2, 2, 36, dtype="float32").reshape(2, 3, 6) ** 3


if __name__ == "__main__":
    built = model()
    built.save(HERE / f"block_{keras.backend.backend()}.keras")
    outputs = keras.ops.convert_to_numpy(built(inputs()))
    np.savez(HERE / "outputs.npz", outputs=outputs)
