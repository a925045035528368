"""Servers for tests that are about what a server does."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from superset_fleet.state.registry import Registry
from tests.support.haproxy_server import Balancer, Web, balancer
from tests.support.servers import Mute, redis_server


@pytest.fixture(scope="session")
def redis_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """URL of a Redis that lives as long as the tests."""
    with redis_server(tmp_path_factory.mktemp("redis")) as (url, _):
        yield url


@pytest.fixture
def registry(redis_url: str) -> Iterator[Registry]:
    """An empty registry."""
    registry = Registry(redis_url)
    registry.redis.flushall()
    yield registry
    registry.redis.close()


@pytest.fixture
def mute() -> Iterator[Mute]:
    """A server that hangs."""
    server = Mute()
    yield server
    server.close()


@pytest.fixture
def haproxy(tmp_path: Path) -> Iterator[Balancer]:
    """A HAProxy with the role's configuration."""
    with balancer(tmp_path) as running:
        yield running


@pytest.fixture
def web() -> Iterator[Web]:
    """A web server that HAProxy can have."""
    server = Web()
    yield server
    server.stop()
