"""Who leads: one of all, and at once another one when that leaves."""

from collections.abc import Iterator

import pytest
import redis

from superset_fleet.daemon.leading import Lead


@pytest.fixture
def client(redis_url: str) -> Iterator[redis.Redis]:
    with redis.Redis.from_url(redis_url) as client:
        client.flushall()
        yield client


def lead(client: redis.Redis) -> tuple[Lead, list[str]]:
    """A lead, and what it says when it begins."""
    said: list[str] = []
    return Lead(client, "lead", lambda: said.append("began")), said


def test_one_leads_and_another_one_at_once_when_it_leaves(client: redis.Redis) -> None:
    (first, _), (second, _) = lead(client), lead(client)
    assert [first.take(), second.take(), first.take(), second.take()] == [True, False] * 2
    first.leave()
    assert [second.take(), first.take()] == [True, False]


def test_a_leader_that_was_too_slow_follows_and_takes_nothing_from_the_next_one(
    client: redis.Redis,
) -> None:
    slow, _ = lead(client)
    assert slow.take()
    client.set("lead", "another one")
    assert not slow.take()
    slow.leave()
    assert client.get("lead") == b"another one"


def test_who_leads_again_begins_anew_even_where_nobody_led_meanwhile(client: redis.Redis) -> None:
    slow, said = lead(client)
    assert [slow.take(), slow.take()] == [True, True]
    assert said == ["began"]
    client.delete("lead")
    assert slow.take()
    assert said == ["began", "began"]
