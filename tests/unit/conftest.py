"""Servers for tests that are about what a server does."""

import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import redis


@pytest.fixture(scope="session")
def redis_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """URL of a Redis that lives as long as the tests."""
    with redis_server(tmp_path_factory.mktemp("redis")) as (url, _):
        yield url


@contextmanager
def redis_server(directory: Path) -> Iterator[tuple[str, subprocess.Popen[bytes]]]:
    """Run a Redis: Debian's, from the package redis-tools."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    # redis-tools has the server, too: it is one program with several names.
    program = shutil.which("redis-server") or shutil.which("redis-check-rdb")
    assert program, "install the package redis-tools"
    options = ["--port", str(port), "--bind", "127.0.0.1", "--save", ""]
    with subprocess.Popen(
        ["redis-server", *options],
        executable=program,
        cwd=directory,
        stdout=subprocess.DEVNULL,
    ) as server:
        url = f"redis://127.0.0.1:{port}/0"
        try:
            wait_for(url)
            yield url, server
        finally:
            server.terminate()


def wait_for(url: str) -> None:
    """Wait at most ten seconds until a Redis answers."""
    client = redis.Redis.from_url(url)
    deadline = time.monotonic() + 10
    while True:
        try:
            client.ping()
            return
        except redis.ConnectionError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.05)
