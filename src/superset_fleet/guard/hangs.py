"""Redis that hangs while users wait: one of them at a time, for a moment, and the others not."""

from __future__ import annotations

import threading
import time
from collections import defaultdict
from typing import Any, ClassVar

import redis

from ..times import TIMES


class Breaker:
    """Remembers that something hung, so that one caller now and then waits for it, and no other."""

    def __init__(self) -> None:
        self._lock, self._again = threading.Lock(), 0.0  # when to ask again, 0 where it answers

    def allows(self) -> bool:
        """Tell whether the caller may ask, and let others wait until it knows."""
        with self._lock:
            now = time.monotonic()
            if now < self._again:
                return False
            if self._again:
                self._again = now + TIMES.hang_seconds
            return True

    def tell(self, hung: bool) -> None:
        """Say what became of asking."""
        self._again = time.monotonic() + TIMES.hang_seconds if hung else 0.0


class Connection(redis.Connection):
    """A connection that fails at once where its Redis hung for another one a moment ago."""

    breakers: ClassVar[defaultdict[tuple[str, int], Breaker]] = defaultdict(Breaker)

    @property
    def breaker(self) -> Breaker:
        """What is known of this Redis in this process."""
        return self.breakers[self.host, self.port]

    def connect(self) -> None:
        """Connect, which a pool asks for before each command."""
        if not self.breaker.allows():
            raise redis.TimeoutError("Redis hung a moment ago")
        try:
            super().connect()  # type: ignore[no-untyped-call]
        except redis.TimeoutError:
            self.breaker.tell(hung=True)
            raise

    def read_response(self, *args: Any, **options: Any) -> Any:
        """Read the answer to a command."""
        try:
            answer = super().read_response(*args, **options)  # type: ignore[no-untyped-call]
        except redis.TimeoutError:
            self.breaker.tell(hung=True)
            raise
        self.breaker.tell(hung=False)
        return answer


def bound(app: Any) -> None:
    """Give a web process' clients of Redis patience for a user, which Superset gives none at all.

    They are those of the events of charts, where workers run these, and of locks.
    """
    from superset.extensions import async_query_manager, cache_manager

    events = getattr(async_query_manager, "_cache", None)
    for backend in (events, cache_manager.distributed_coordination):
        if backend:
            pool = backend._cache.connection_pool
            pool.connection_class = Connection
            pool.connection_kwargs |= dict.fromkeys(
                ("socket_timeout", "socket_connect_timeout"), TIMES.web_redis_seconds
            )
