import json
import os
import subprocess
import sys

import keras
import numpy as np
import pytest
import scripts
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
from imagenet import train as imagenet
from common import script
"""
TRAIN = f"{TWO}imagenet.main()"
# Each of several more arguments, which are refused.
REFUSE = f"""{TWO}
import json
given = sys.argv[2:]
for more in json.loads(sys.argv[1]):
    sys.argv[1:] = [*given, *map(str, more)]
    try:
        imagenet.main()
    except script.Stop as stop:
        print(stop)
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
    given = (*SMALL, "--ema", 0.9, "--accumulate", 2)
    for name, devices in {
        "one": (),
        "data": ("--devices", 4),
        "model": ("--devices", 4, "--model-devices", 2),
    }.items():
        finished = run(*given, *devices, output=tmp_path / name, XLA_FLAGS=FOUR_DEVICES)
        assert finished.returncode == 0, finished.stderr
        assert ("on 4 devices" in finished.stdout) == bool(devices)
        assert_same_training(tmp_path / "one", tmp_path / name)
    # A checkpoint is of no number of devices.
    more = ("--resume", "--devices", 2)
    finished = run(*given, *more, output=tmp_path / "model", XLA_FLAGS=FOUR_DEVICES)
    assert finished.returncode == 0, finished.stderr
    assert "Resuming at the end of epoch 2" in finished.stdout


@jax_only
def test_jax_on_two_hosts_trains_as_on_one(tmp_path):
    finished = run(*SMALL, output=tmp_path / "one")
    assert finished.returncode == 0, finished.stderr
    port = 20_000 + os.getpid() % 20_000
    hosts = [
        subprocess.Popen(
            [
                *(sys.executable, EXAMPLES / "imagenet", *arguments(*SMALL)),
                *("--hosts", f"localhost:{port}", "2", str(number)),
                *("--output", str(tmp_path / "two")),
            ],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for number in range(2)
    ]
    outputs = [host.communicate(timeout=300) for host in hosts]
    assert [host.returncode for host in hosts] == [0, 0], outputs
    assert "on 2 devices of 2 hosts" in outputs[0][0]
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
    given = arguments(*SMALL, "--clip", 0, "--ema", 0.9)
    for devices in (1, 2):
        output = ("--output", tmp_path / str(devices))
        finished = script(TRAIN, EXAMPLES, *given, "--devices", devices, *output)
        assert finished.returncode == 0, finished.stderr
        assert ("on 2 devices, mirrored" in finished.stdout) == (devices == 2)
    assert_same_training(tmp_path / "1", tmp_path / "2")
    refused = json.dumps([("--clip", 1), ("--accumulate", 2), ("--devices", 3)])
    finished = script(REFUSE, EXAMPLES, refused, *given, "--devices", 2)
    assert finished.returncode == 0, finished.stderr
    errors = finished.stdout.splitlines()
    assert len(errors) == 3, finished.stdout
    for error in errors[:2]:
        assert "On several devices Keras neither" in error
    assert "--devices must be from 1 to 2" in errors[2]


@tensorflow_only
def test_several_hosts_are_refused_with_tensorflow(tmp_path):
    cluster = {"cluster": {"worker": ["a:1", "b:1"]}, "task": {"type": "worker", "index": 0}}
    finished = run(*SMALL, output=tmp_path / "out", TF_CONFIG=json.dumps(cluster))
    assert finished.returncode == 1
    assert "TF_CONFIG names 2 hosts, and Keras 3 does not train" in finished.stderr
    assert not (tmp_path / "out").exists()


BAD = {
    "jax": [
        (("--devices", 99), "--devices must be from 1 to 1, which there are. Got: 99"),
        (("--model-devices", 2), "--model-devices 2 must divide the number of devices, 1"),
        (("--hosts", "a:1", 2, 0, "--devices", 1), "leave --devices out"),
        (("--devices", 0), "must be greater than 0, not 0"),
        (("--hosts", "a:1", 2, 2), "and that of this one, from 0. Received: a:1 2 2"),
        (("--model", "convnext_trial", "--model-devices", 2), "shares the weights of ViTs"),
    ],
    "torch": [
        (("--devices", 2), "Keras trains on one device with torch: use KERAS_BACKEND=jax"),
        (("--model-devices", 2), "--model-devices and --hosts are for KERAS_BACKEND=jax"),
    ],
    "tensorflow": [
        (("--devices", 99), "--devices must be from 1 to 1, which there are. Got: 99"),
        (("--hosts", "a:1", 2, 0), "--model-devices and --hosts are for KERAS_BACKEND=jax"),
    ],
}


@pytest.mark.parametrize(("given", "message"), BAD[BACKEND])
def test_devices_that_cannot_be_used(given, message, tmp_path):
    out = tmp_path / "out"
    finished = scripts.run("examples/imagenet", *SMALL, *given, "--output", out)
    assert finished.returncode in (1, 2)
    assert message in finished.stderr
    assert "Traceback" not in finished.stderr
    assert not out.exists()
