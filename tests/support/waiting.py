"""Waiting for what is seen."""

import time
from collections.abc import Callable
from typing import Any

DEADLINE_SECONDS = 30.0  # when the test has failed: never what it is about


def until(condition: Callable[[], Any], what: str, seconds: float = DEADLINE_SECONDS) -> Any:
    """Wait until a condition holds, and return what it said.

    Raises AssertionError when it does not in time.
    """
    deadline = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < deadline, f"not in {seconds:g} s: {what}"
        time.sleep(0.02)
    return found
