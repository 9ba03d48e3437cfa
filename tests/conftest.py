import os

import hypothesis
import pytest

# On GPUs, JAX multiplies float32 matrices in TF32 (a relative error of 1e-3) unless told not to.
os.environ.setdefault("JAX_DEFAULT_MATMUL_PRECISION", "highest")

# The same examples in every run: a test that fails, fails for everybody.
hypothesis.settings.register_profile("fixed", derandomize=True, deadline=None, max_examples=25)
hypothesis.settings.load_profile("fixed")

# Tests that never ask what the backend is run on the quickest one.
ONE_BACKEND = "torch"


def pytest_collection_modifyitems(items):
    backend = os.environ.get("KERAS_BACKEND", "tensorflow")
    skip = pytest.mark.skip(reason=f"the same on every backend: runs on {ONE_BACKEND}")
    for item in items:
        if item.get_closest_marker("one_backend") and backend != ONE_BACKEND:
            item.add_marker(skip)
