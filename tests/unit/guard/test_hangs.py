"""Redis that hangs while users wait."""

import signal
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import redis
from werkzeug.local import LocalProxy

from superset_fleet.guard import hangs
from superset_fleet.times import TIMES
from tests.support.servers import Mute, redis_server
from tests.support.waiting import until


def client(url: str) -> redis.Redis:
    """Return a client as a web process has it, of little patience."""
    options = {"socket_timeout": 0.1, "connection_class": hangs.Connection}
    made: redis.Redis = redis.Redis.from_url(url, **options)
    return made


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The time that breakers know."""
    clock = [1000.0]
    monkeypatch.setattr(hangs, "time", SimpleNamespace(monotonic=lambda: clock[0]))
    return clock


@pytest.mark.usefixtures("clock")
def test_a_redis_that_hung_a_moment_ago_is_not_waited_for_by_another(mute: Mute) -> None:
    for _ in range(3):
        with pytest.raises(redis.TimeoutError):
            client(mute.url).ping()
    assert mute.connections == 1


def test_one_asks_again_after_a_while_and_the_others_do_not(clock: list[float]) -> None:
    breaker = hangs.Breaker()
    assert breaker.allows()
    assert breaker.allows()
    breaker.tell(hung=True)
    assert not breaker.allows()
    clock[0] += TIMES.hang_seconds
    assert breaker.allows()
    assert not breaker.allows()
    breaker.tell(hung=False)
    assert breaker.allows()
    assert breaker.allows()


def test_a_redis_that_answers_again_is_asked_by_all_again(tmp_path: Path) -> None:
    def answers() -> bool:
        try:
            return bool(client(url).ping())
        except redis.TimeoutError:
            return False

    with redis_server(tmp_path) as (url, server):
        assert answers()
        server.send_signal(signal.SIGSTOP)
        assert not answers()
        server.send_signal(signal.SIGCONT)
        until(answers, "Redis is asked again")
        assert answers()


@pytest.mark.parametrize("charts_by_workers", [False, True])
def test_superset_s_own_clients_of_redis_have_the_patience_of_a_user(
    mute: Mute, monkeypatch: pytest.MonkeyPatch, charts_by_workers: bool
) -> None:
    monkeypatch.setattr(hangs, "TIMES", TIMES.scaled(0.1))
    clients = [redis.Redis.from_url(mute.url) for _ in range(1 + charts_by_workers)]
    locks, *events = (SimpleNamespace(_cache=client) for client in clients)
    manager = SimpleNamespace(_cache=events[0]) if events else None
    extensions = SimpleNamespace(
        async_query_manager=LocalProxy(lambda: manager),
        cache_manager=SimpleNamespace(distributed_coordination=locks),
    )
    monkeypatch.setitem(sys.modules, "superset", SimpleNamespace())
    monkeypatch.setitem(sys.modules, "superset.extensions", extensions)
    hangs.bound(None)
    for client in clients:
        with pytest.raises(redis.TimeoutError):
            client.ping()
