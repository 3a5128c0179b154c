"""The pause of the garbage collector: short, shared by threads, never left behind."""

from __future__ import annotations

import gc
import os
import threading
from collections.abc import Iterator

import pytest

from ledger.uncollected import uncollected


@pytest.fixture(autouse=True)
def _enabled() -> Iterator[None]:
    yield
    gc.enable()


def test_it_is_off_within_and_on_after() -> None:
    """Also after an error, and only when the outermost block ends."""
    seen = []

    def work() -> None:
        with uncollected():
            with uncollected():
                seen.append(gc.isenabled())
            seen.append(gc.isenabled())
            raise KeyError

    with pytest.raises(KeyError):
        work()
    assert ([False, False], True) == (seen, gc.isenabled())


def test_one_that_is_off_stays_off() -> None:
    """Who has switched it off has had a reason."""
    gc.disable()
    with uncollected():
        pass
    assert not gc.isenabled()


def test_the_last_of_several_threads_switches_it_on() -> None:
    """Whoever began, it is off for as long as anybody is at work."""
    inside, leave = threading.Event(), threading.Event()

    def work() -> None:
        with uncollected():
            inside.set()
            leave.wait(10)

    thread = threading.Thread(target=work)
    with uncollected():
        thread.start()
        assert inside.wait(10)
    seen = gc.isenabled()
    leave.set()
    thread.join()
    assert (seen, gc.isenabled()) == (False, True)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
@pytest.mark.filterwarnings("ignore:.*multi-threaded.*:DeprecationWarning")
def test_a_forked_child_has_it_on() -> None:
    """The parent's work is not the child's."""
    with uncollected():
        child = os.fork()
        if not child:
            with uncollected():
                within = gc.isenabled()
            os._exit(0 if gc.isenabled() and not within else 1)
    _, status = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(status) == 0
