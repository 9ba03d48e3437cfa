import os
import subprocess
import sys

import keras
import numpy as np
import pytest
from devices import FOUR_DEVICES
from imagenet_runs import SMALL, arguments, history_of, run, variables_of
from paths import EXAMPLES

BACKEND = keras.backend.backend()
jax_only = pytest.mark.skipif(BACKEND != "jax", reason="keras.distribution is for JAX")
tensorflow_only = pytest.mark.skipif(BACKEND != "tensorflow", reason="tf.distribute")
# With two TensorFlow devices on one CPU.
TWO = """
import sys
import tensorflow as tf
(cpu,) = tf.config.list_physical_devices("CPU")
tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)
sys.path.insert(0, sys.argv.pop(1))
from imagenet import train
train.main()
"""


def script(text, *given, **environment):
    return subprocess.run(
        [sys.executable, "-c", text, *map(str, given)],
        capture_output=True,
        text=True,
        env={**os.environ, **environment},
    )


def assert_same_training(folder, other):
    for a, b in zip(history_of(folder), history_of(other), strict=True):
        assert a == pytest.approx(b, rel=1e-5, abs=1e-5)
    for a, b in zip(variables_of(folder).values(), variables_of(other).values(), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-3, atol=2e-5)


@jax_only
def test_jax_on_four_devices_trains_as_on_one(tmp_path):
    given = (*SMALL, "--ema", 0.9)
    for name, flags in {"one": "", "four": FOUR_DEVICES}.items():
        finished = run(*given, output=tmp_path / name, XLA_FLAGS=flags)
        assert finished.returncode == 0, finished.stderr
    assert "on 4 device(s)" in finished.stdout
    assert_same_training(tmp_path / "one", tmp_path / "four")
    # A checkpoint is of no number of devices.
    finished = run(*given, output=tmp_path / "four")
    assert finished.returncode == 0, finished.stderr
    assert "Resuming at the end of epoch 2" in finished.stdout
    finished = run(*given, "--batch-size", 30, output=tmp_path / "x", XLA_FLAGS=FOUR_DEVICES)
    assert "--batch-size must be a multiple of 4" in finished.stderr


@jax_only
def test_jax_on_two_hosts_trains_as_on_one(tmp_path):
    finished = run(*SMALL, output=tmp_path / "one")
    assert finished.returncode == 0, finished.stderr
    port = 20_000 + os.getpid() % 20_000
    hosts = [
        subprocess.Popen(
            [sys.executable, EXAMPLES / "imagenet", *arguments(*SMALL, output=tmp_path / "two")],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={
                **os.environ,
                "KERAS_DISTRIBUTION_JOB_ADDRESSES": f"localhost:{port}",
                "KERAS_DISTRIBUTION_NUM_PROCESSES": "2",
                "KERAS_DISTRIBUTION_PROCESS_ID": str(number),
            },
        )
        for number in range(2)
    ]
    outputs = [host.communicate(timeout=300) for host in hosts]
    assert [host.returncode for host in hosts] == [0, 0], outputs
    assert "on 2 device(s)" in outputs[0][0]
    assert_same_training(tmp_path / "one", tmp_path / "two")


# Of a quarter of Keras's threshold for jitted initialization, 250 MiB over all devices.
SHARDED = """
import keras
import numpy as np
from keras_mimetic.initializers import MimeticMean
from keras_mimetic.layers import MimeticMLPBlock

def draw(size):
    dense = keras.layers.Dense(size, kernel_initializer=MimeticMean(seed=3), name="dense")
    dense.build((None, size))
    block = MimeticMLPBlock(size, mean=-1.0, norm="layer_norm", seed=5)
    block.build((None, size))
    return [dense.kernel, block.fc1.kernel, block.fc1.bias, block.fc2.kernel]

size = 4096
plain = [np.asarray(weight) for weight in draw(size)]
mesh = keras.distribution.DeviceMesh((1, 4), ("batch", "model"))
layout = keras.distribution.LayoutMap(mesh)
layout[".*kernel"] = (None, "model")
keras.distribution.set_distribution(
    keras.distribution.ModelParallel(layout_map=layout, batch_dim_name="batch")
)
assert size * size * 4 * 4 >= 250 * 2**20
for weight, values in zip(draw(size), plain):
    parts = {shard.data.shape for shard in weight.value.addressable_shards}
    assert parts == {(size, size // 4) if weight.ndim == 2 else (size,)}, parts
    np.testing.assert_array_equal(np.asarray(weight), values)
try:
    seed = keras.random.SeedGenerator(0)
    keras.layers.Dense(size, kernel_initializer=MimeticMean(seed=seed)).build((None, size))
except ValueError as error:
    print(error)
"""


@jax_only
def test_large_weights_that_are_jitted_and_sharded_are_the_same(tmp_path):
    finished = script(SHARDED, XLA_FLAGS=FOUR_DEVICES)
    assert finished.returncode == 0, finished.stderr
    assert "cannot be sampled with a `SeedGenerator` while a function is being traced" in (
        finished.stdout
    )


@tensorflow_only
def test_tensorflow_on_two_devices_trains_as_on_one(tmp_path):
    given = (*SMALL, "--clip", 0, "--ema", 0.9)
    finished = run(*given, output=tmp_path / "one")
    assert finished.returncode == 0, finished.stderr
    finished = script(TWO, EXAMPLES, *arguments(*given, output=tmp_path / "two"))
    assert finished.returncode == 0, finished.stderr
    assert "on 2 device(s)" in finished.stdout
    assert_same_training(tmp_path / "one", tmp_path / "two")
    finished = script(TWO, EXAMPLES, *arguments(*given, "--clip", 1, output=tmp_path / "x"))
    assert finished.stderr.splitlines()[-1].startswith("Keras does not clip the gradients of")
