"""Servers of a test's own: a Redis, Debian's from the package redis-tools."""

import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import redis


def free_port() -> int:
    """Return a port of 127.0.0.1 on which nobody listens."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port: int = free.getsockname()[1]
    return port


def start_redis(directory: Path, port: int, *options: str) -> subprocess.Popen[bytes]:
    """Start a Redis whose files are in a directory, and wait until it answers."""
    # redis-tools has the server, too: it is one program with several names.
    program = shutil.which("redis-server") or shutil.which("redis-check-rdb")
    assert program, "install the package redis-tools"
    command = ["redis-server", "--port", str(port), "--bind", "127.0.0.1", "--save", "", *options]
    server = subprocess.Popen(command, executable=program, cwd=directory, stdout=subprocess.DEVNULL)
    wait_for(f"redis://127.0.0.1:{port}/0")
    return server


class Mute:
    """A port of 127.0.0.1 that takes connections, and says nothing."""

    def __init__(self) -> None:
        self._server = socket.create_server(("127.0.0.1", 0))
        self._server.setblocking(False)
        self._taken: list[socket.socket] = []
        self.port: int = self._server.getsockname()[1]
        self.url = f"redis://127.0.0.1:{self.port}/0"

    @property
    def connections(self) -> int:
        """How many there were."""
        with suppress(BlockingIOError):
            while True:
                self._taken.append(self._server.accept()[0])
        return len(self._taken)

    def close(self) -> None:
        """Close all."""
        for each in (self._server, *self._taken):
            each.close()


@contextmanager
def redis_server(directory: Path) -> Iterator[tuple[str, subprocess.Popen[bytes]]]:
    """Run a Redis; gives its URL and its process."""
    port = free_port()
    server = start_redis(directory, port)
    try:
        yield f"redis://127.0.0.1:{port}/0", server
    finally:
        server.terminate()
        server.wait()


def wait_for(url: str) -> None:
    """Wait at most ten seconds until a Redis answers, be it that it wants a password."""
    client = redis.Redis.from_url(url)
    deadline = time.monotonic() + 10
    while True:
        try:
            client.ping()
            return
        except redis.AuthenticationError:
            return
        except redis.ConnectionError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.05)
