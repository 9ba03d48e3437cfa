import os
import subprocess
import sys

import keras
import numpy as np
import pytest
from devices import FOUR_DEVICES
from imagenet_runs import SMALL, arguments, history_of, run, variables_of
from paths import EXAMPLES

from imagenet import devices, recipe, train

BACKEND = keras.backend.backend()
jax_only = pytest.mark.skipif(BACKEND != "jax", reason="keras.distribution is for JAX")
tensorflow_only = pytest.mark.skipif(BACKEND != "tensorflow", reason="tf.distribute")
# Keras does not clip the gradients of several devices with TensorFlow.
GIVEN = (*SMALL, "--epochs", 1, "--warmup-epochs", 0.5, "--ema", 0.9, "--clip", 0)
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


@pytest.fixture(scope="module")
def one(tmp_path_factory):
    """Train on one device, in this process, and return the folder of the results."""
    folder = tmp_path_factory.mktemp("one")
    train.main(arguments(*GIVEN, output=folder))
    return folder


@jax_only
def test_jax_on_four_devices_trains_as_on_one(one, tmp_path, capsys):
    finished = run(*GIVEN, output=tmp_path, XLA_FLAGS=FOUR_DEVICES)
    assert finished.returncode == 0, finished.stderr
    assert "on 4 device(s)" in finished.stdout
    assert_same_training(one, tmp_path)
    # A checkpoint is of no number of devices.
    train.main(arguments(*GIVEN, output=tmp_path))
    assert "Resuming at the end of epoch 1" in capsys.readouterr().out


@jax_only
def test_the_devices_share_a_batch_equally(monkeypatch):
    monkeypatch.setattr(devices, "_jax", lambda: devices.Devices(4))
    with pytest.raises(SystemExit, match="--batch-size must be a multiple of 4"):
        devices.use_all(recipe.parse(["--batch-size", "30"]))


@jax_only
def test_jax_on_two_hosts_trains_as_on_one(tmp_path):
    given = (*SMALL, "--epochs", 1, "--warmup-epochs", 0.5)
    train.main(arguments(*given, output=tmp_path / "one"))
    port = 20_000 + os.getpid() % 20_000
    hosts = [
        subprocess.Popen(
            [sys.executable, EXAMPLES / "imagenet", *arguments(*given, output=tmp_path / "two")],
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
    block = MimeticMLPBlock(size, 4, mean=-1.0, norm="layer_norm", seed=5)
    block.build((None, size))
    return [dense.kernel, block.fc1.kernel, block.fc1.bias]

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
def test_tensorflow_on_two_devices_trains_as_on_one(one, tmp_path):
    finished = script(TWO, EXAMPLES, *arguments(*GIVEN, output=tmp_path))
    assert finished.returncode == 0, finished.stderr
    assert "on 2 device(s)" in finished.stdout
    assert_same_training(one, tmp_path)


@tensorflow_only
def test_tensorflow_does_not_clip_gradients_of_two_devices(monkeypatch):
    monkeypatch.setattr("tensorflow.config.list_logical_devices", lambda kind: [None, None])
    with pytest.raises(SystemExit, match="Keras does not clip the gradients of"):
        devices.use_all(recipe.parse(["--clip", "1"]))
