"""Several devices on one CPU, for tests in a process of their own."""

import os

# `XLA_FLAGS` with which JAX shows four devices.
_FLAGS = os.environ.get("XLA_FLAGS", "")
FOUR_DEVICES = f"{_FLAGS} --xla_force_host_platform_device_count=4".lstrip()
