import pytest
import scripts  # noqa: F401
from paths import ROOT

pytest.importorskip("matplotlib")

import gains


@pytest.mark.one_backend
def test_the_table_of_the_readme_is_that_of_the_runs():
    found = [(row, *row.read()) for row in gains.ROWS]
    assert gains.table(found) in (ROOT / "README.md").read_text()
