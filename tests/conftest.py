import atexit
import importlib.metadata
import os
import shutil
import tempfile

import hypothesis
import pytest

# On GPUs, JAX multiplies float32 matrices in TF32 (a relative error of 1e-3) unless told not to.
os.environ.setdefault("JAX_DEFAULT_MATMUL_PRECISION", "highest")


def compile_quickly():
    """Make JAX compile in less time: tests compile much and compute little."""
    os.environ.setdefault("JAX_DISABLE_MOST_OPTIMIZATIONS", "1")
    # JAX 0.11 has no such flag, and XLA ends the process at a flag that it does not know.
    if tuple(map(int, importlib.metadata.version("jax").split(".")[:2])) < (0, 11):
        flags = os.environ.get("XLA_FLAGS", "")
        os.environ["XLA_FLAGS"] = f"{flags} --xla_cpu_use_fusion_emitters=false".lstrip()
    # Models of equal shapes share their programs, also in processes that a test starts.
    if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
        folder = os.environ["JAX_COMPILATION_CACHE_DIR"] = tempfile.mkdtemp(prefix="jax-programs-")
        atexit.register(shutil.rmtree, folder, ignore_errors=True)
        os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"
        os.environ["JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES"] = "-1"


if os.environ.get("KERAS_BACKEND") == "jax":
    compile_quickly()

# The same examples in every run: a test that fails, fails for everybody.
hypothesis.settings.register_profile("fixed", derandomize=True, deadline=None, max_examples=25)
hypothesis.settings.load_profile("fixed")

# Tests that never ask what the backend is run on the quickest one.
ONE_BACKEND = "torch"


def pytest_collection_modifyitems(items):
    if os.environ.get("KERAS_BACKEND", "tensorflow") == ONE_BACKEND:
        return
    skip = pytest.mark.skip(reason=f"the same on every backend: runs on {ONE_BACKEND}")
    for item in items:
        # The mathematics is in NumPy and SciPy.
        if item.path.parent.name == "numerics" or item.get_closest_marker("one_backend"):
            item.add_marker(skip)
