"""Of several processes that could do the same work, one leads: who holds a lock in Redis."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import redis
from redis.exceptions import LockError

from ..times import TIMES
from .journal import tell


class Lead:
    """The lead, which is taken anew at each step. `began` is called when this process gets it."""

    def __init__(self, client: Any, name: str, began: Callable[[], None]) -> None:
        self._lock = client.lock(name, timeout=TIMES.lead_seconds, blocking=False)
        self._began, self._held = began, False

    @property
    def status(self) -> str:
        """Whether this process leads, in a word."""
        return "leads" if self._held else "follows"

    def take(self) -> bool:
        """Return whether this process leads, trying to if nobody does. Raises RedisError."""
        if self._held:
            try:
                self._lock.reacquire()
                return True
            except LockError:
                self._held = False
                tell("follows")
        if self._lock.acquire():
            self._held = True
            self._began()
            tell("leads")
        return self._held

    def leave(self) -> None:
        """Let another one lead at once."""
        if self._held:
            self._held = False
            try:
                self._lock.release()
            except (LockError, redis.RedisError) as error:
                tell("not_released", reason=repr(error))
