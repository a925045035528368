"""Servers for tests that are about what a server does."""

from collections.abc import Iterator

import pytest

from tests.support.servers import redis_server


@pytest.fixture(scope="session")
def redis_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """URL of a Redis that lives as long as the tests."""
    with redis_server(tmp_path_factory.mktemp("redis")) as (url, _):
        yield url
