import pathlib
import sys

import hypothesis

# The examples are scripts beside one another, not a package.
sys.path.insert(0, str(pathlib.Path(__file__).parent.parent / "examples"))

# The same examples in every run: a test that fails, fails for everybody.
hypothesis.settings.register_profile("fixed", derandomize=True, deadline=None, max_examples=25)
hypothesis.settings.load_profile("fixed")
