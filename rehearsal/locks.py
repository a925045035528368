"""Locks between processes of this checkout."""

from __future__ import annotations

import contextlib
import fcntl
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path


class Held(Exception):
    """The lock is another process'; the message is which one's."""


@contextlib.contextmanager
def locked(
    path: Path, wait_seconds: float = 0, waits: Callable[[str], None] = lambda _: None
) -> Iterator[None]:
    """Hold an exclusive lock on `path`; the kernel drops it when this process dies.

    `waits` is told who holds it, once. Raises Held when it is not free after `wait_seconds`.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    deadline = time.monotonic() + wait_seconds
    told = False
    with path.open("a+") as file:
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                holder = path.read_text().strip() or "another process"
            if time.monotonic() > deadline:
                raise Held(holder)
            if not told:
                waits(holder)
                told = True
            time.sleep(0.1)
        file.truncate(0)
        file.write(f"process {os.getpid()}\n")
        file.flush()
        yield
