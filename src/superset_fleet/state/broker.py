"""The queues of the broker, as Celery keeps them in Redis: a list for each priority."""

from __future__ import annotations

import base64
import binascii
import json
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Set
from typing import Any

import redis

from .jobs import PRIORITIES, job_name

# Those of kombu's transport, which is not installed wherever somebody looks into a queue.
SEPARATOR = "\x06\x16"
SCAN_MESSAGES = 200  # of a queue, read at once
TAKEN, TAKEN_AT = "unacked", "unacked_index"  # tasks not confirmed yet, and since when


def lists(queue: str) -> list[str]:
    """Return the names of a queue's lists; the first one's is the queue's own."""
    return [f"{queue}{SEPARATOR}{step}" if step else queue for step in PRIORITIES]


def waiting(client: Any, queues: Iterable[str]) -> dict[str, int]:
    """Return how many tasks wait in each queue, which no worker has taken. Raises RedisError.

    `client` is one of the broker's database.
    """
    names = list(queues)
    with client.pipeline(transaction=False) as pipeline:
        for name in names:
            for each in lists(name):
                pipeline.llen(each)
        lengths = iter(pipeline.execute())
    return {name: sum(next(lengths) for _ in PRIORITIES) for name in names}


def abandoned(client: Any, before: float) -> Counter[str]:
    """Return how many tasks of each queue were taken before a time and never confirmed.

    Their workers are gone. The next worker that runs, for whatever queue, puts them back into
    theirs; until then they wait where no length tells of them. Raises RedisError.
    """
    late = client.zrangebyscore(TAKEN_AT, "-inf", before)
    tasks = client.hmget(TAKEN, late) if late else []
    return Counter(json.loads(task)[-1] for task in tasks if task)


class Messages:
    """Messages that wait. Only Redis lets us look; of any other broker nothing is known."""

    def __init__(self, url: str) -> None:
        self._redis: Any = None
        if url.startswith(("redis://", "rediss://")):
            self._redis = redis.Redis.from_url(url, socket_timeout=2, socket_connect_timeout=2)

    def waiting(self, queues: Collection[str]) -> Set[str] | None:
        """Return the jobs whose messages are in these queues, None where nobody can look.

        Messages come in at the head, leave at the tail and are read from the head on, so none is
        missed that stays. One that a worker has taken and not confirmed is that worker's matter:
        it names the job with each beat, and of a dead worker the job is sent again.
        """
        if self._redis is None:
            return None
        names = [each for queue in queues for each in lists(queue)]
        return {name for each in names for text in self._messages(each) if (name := job_of(text))}

    def _messages(self, name: str) -> Iterator[bytes]:
        start = 0
        while texts := self._redis.lrange(name, start, start + SCAN_MESSAGES - 1):
            yield from texts
            start += SCAN_MESSAGES


def job_of(message: bytes) -> str:
    """Return the job of a message as Celery sends it, '' where it has none."""
    try:
        envelope = json.loads(message)
        args, kwargs, _ = json.loads(base64.b64decode(envelope["body"]))
        return job_name(envelope["headers"]["task"], args, kwargs)
    except (ValueError, LookupError, TypeError, binascii.Error):
        return ""
