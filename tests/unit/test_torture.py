"""The short version of `make torture`: a few faults of each kind."""

import pytest

from torture.everything import run


@pytest.mark.slow
def test_no_fault_gives_a_wrong_number():
    counted = run(seed=1, number=3, workflow=0)
    assert counted.tried > 250
    assert counted.wrong == []
