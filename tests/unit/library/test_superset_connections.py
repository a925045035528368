"""superset_connections: who does not answer, or refuses the password, is named with the remedy."""

import socket
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlsplit

import pytest
import redis
from superset_connections import INSTANCES, try_database, try_redis

PASSWORD = "known"


def address(port: int, password: str = PASSWORD) -> dict[str, Any]:
    return {"host": "127.0.0.1", "port": port, "password": password}


@pytest.fixture
def nobody() -> Iterator[int]:
    """A port at which nobody answers."""
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))  # and does not listen
        yield bound.getsockname()[1]


@pytest.fixture
def server(redis_url: str) -> Iterator[int]:
    """The port of a Redis that wants a password."""
    client: Any = redis.Redis.from_url(redis_url)
    client.config_set("requirepass", PASSWORD)
    yield urlsplit(redis_url).port or 0
    client.auth(PASSWORD)
    client.config_set("requirepass", "")


@pytest.mark.parametrize("name", INSTANCES)
def test_a_redis_that_is_down_is_named_with_its_unit(name: str, nobody: int) -> None:
    said = try_redis(name, address(nobody))
    assert said.startswith(f"Redis {name} at 127.0.0.1:{nobody} does not answer")
    assert f"systemctl status redis-server@{name}" in said


@pytest.mark.parametrize("name", INSTANCES)
def test_a_password_that_redis_refuses_is_named_and_not_told(name: str, server: int) -> None:
    said = try_redis(name, address(server, "wrong guess"))
    assert f"Redis {name} at 127.0.0.1:{server} refuses the password" in said
    assert f"check redis_{name}_password" in said
    assert "wrong guess" not in said


def test_a_redis_that_answers_is_not_named(server: int) -> None:
    assert try_redis("cache", address(server)) == ""


def test_a_database_that_is_down_is_named_with_address_and_user(nobody: int) -> None:
    said = try_database(address(nobody) | {"name": "meta", "user": "owner"})
    assert said.startswith(f"the metadata database meta at 127.0.0.1:{nobody} refuses user owner")
    assert "run playbooks/postgres.yml" in said
    assert PASSWORD not in said
