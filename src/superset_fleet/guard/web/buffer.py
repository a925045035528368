"""Rows that a process writes once a second, by a thread of its own, in one transaction.

Whoever puts a row waits for nobody. While the database takes no rows they wait, up to a number of
bytes; what is more is dropped. A process that exits writes what it has. One that is killed loses
what it has, which is a second's rows while the database works.
"""

from __future__ import annotations

import atexit
import os
import threading
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import sqlalchemy
from sqlalchemy.exc import DataError, IntegrityError, ProgrammingError

from ...daemon.journal import in_words, tell
from ...times import TIMES

Row = Mapping[str, Any]
MOST_BYTES = 16 << 20
# Which a row alone is to blame for: the same row is refused again, and others are not.
REFUSALS = (DataError, IntegrityError, ProgrammingError, ValueError)


def insert(engine: Any, table: Any, rows: Sequence[Row]) -> int:
    """Insert rows in one transaction; return how many the database refused.

    Raises SQLAlchemyError where it takes none at this time.
    """
    statement = sqlalchemy.insert(table)
    try:
        with engine.begin() as connection:
            connection.execute(statement, list(rows))
        return 0
    except REFUSALS:  # e.g. of a user who was deleted just now
        refused = 0
        with engine.begin() as connection:
            for row in rows:
                try:
                    with connection.begin_nested():
                        connection.execute(statement, dict(row))
                except REFUSALS:
                    refused += 1
        return refused


class Buffer:
    """Rows of this process; `write` gets them and returns how many were refused for good.

    A child that is forked begins with an empty one: what its parent has is the parent's.
    """

    def __init__(self, write: Callable[[Sequence[Row]], int], most_bytes: int = MOST_BYTES) -> None:
        self._write, self._most_bytes = write, most_bytes
        self._begin()
        os.register_at_fork(after_in_child=self._begin)
        atexit.register(self.close)

    def _begin(self) -> None:
        self._lock = threading.Lock()
        self._rows: deque[tuple[Row, int]] = deque()
        self._bytes = self._lost = 0
        self._failing = False
        self._some, self._closing = threading.Event(), threading.Event()
        self._thread: threading.Thread | None = None

    def put(self, row: Row, size: int) -> None:
        """Take a row of so many bytes, or drop it where that is too much."""
        with self._lock:
            fits = self._bytes + size <= self._most_bytes
            if fits:
                self._rows.append((row, size))
                self._bytes += size
            else:
                self._lost += 1
            first = not fits and self._lost == 1
            if not self._thread:  # of this process: threads do not survive a fork
                self._thread = threading.Thread(target=self._run, name="actions", daemon=True)
                self._thread.start()
        if first:
            tell("actions_dropped", reason=f"{self._most_bytes} bytes wait for the database")
        self._some.set()

    def close(self) -> None:
        """Write what is left, and wait for that for a moment."""
        if not self._thread:
            return
        self._closing.set()
        self._some.set()
        self._thread.join(TIMES.actions_stop_seconds)
        if self._rows:
            tell("actions_lost", number=len(self._rows), reason="the process exits")

    def _run(self) -> None:
        closing = False
        while not closing:
            self._some.wait()
            closing = self._closing.wait(TIMES.actions_seconds)
            self._some.clear()
            self._flush()

    def _flush(self) -> None:
        """Write what is there; keep it where that fails."""
        with self._lock:
            rows = list(self._rows)
        try:
            refused = self._write([row for row, _ in rows]) if rows else 0
        except Exception as error:  # whatever it is, this thread goes on
            if not self._failing:
                tell("actions_wait", number=len(rows), reason=in_words(error))
            self._failing = True
            self._some.set()
            return
        with self._lock:
            for _, size in rows:
                self._rows.popleft()
                self._bytes -= size
            lost, self._lost, self._failing = self._lost + refused, 0, False
        if lost:
            tell("actions_lost", number=lost, reason="dropped or refused")
