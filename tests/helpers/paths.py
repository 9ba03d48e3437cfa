"""Where the repository keeps what tests read."""

import pathlib

HELPERS = pathlib.Path(__file__).parent
TESTS = HELPERS.parent
ROOT = TESTS.parent
GOLDEN = TESTS / "golden"
EXAMPLES = ROOT / "examples"
