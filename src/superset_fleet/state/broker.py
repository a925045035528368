"""The queues of the broker, as Celery keeps them in Redis: a list for each priority."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable
from typing import Any

# Those of kombu's transport, which is not installed wherever somebody looks into a queue.
SEPARATOR = "\x06\x16"
PRIORITIES = (0, 3, 6, 9)  # the first one's list has the queue's own name
TAKEN, TAKEN_AT = "unacked", "unacked_index"  # tasks not confirmed yet, and since when


def lists(queue: str) -> list[str]:
    """Return the names of a queue's lists."""
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
