"""Client of HAProxy's Runtime API: the servers of one backend of a running HAProxy, 2.6 or newer.

Text over a unix socket, one command per connection. There is no exit code: a command that works
says nothing or one known sentence, so anything else is an error.
"""

from __future__ import annotations

import re
import socket
import time
from collections.abc import Mapping
from operator import itemgetter
from typing import NamedTuple

SOCKET = "/run/haproxy/admin.sock"
RETRY_SECONDS = 0.05  # between two tries to delete a server that a connection still holds

NAME = re.compile(r"[A-Za-z0-9._-]+")
ADDRESS = re.compile(r"(?:[0-9]+(?:\.[0-9]+){3}|\[[0-9A-Fa-f:.]+\]):[0-9]+")
OPTIONS = re.compile(r"[A-Za-z0-9 ._/%-]*")

COLUMNS = ("name", "addr", "port", "op_state", "admin_state")
# Bits of srv_admin_state: forced, inherited or configured maintenance, name not resolved; drain.
MAINTENANCE, DRAIN = 0x01 | 0x02 | 0x04 | 0x20, 0x08 | 0x10
RUNNING = ("1", "2")  # srv_op_state: starting (slowly), running


class HAProxyError(Exception):
    """HAProxy did not do what it was told; the message names action, server and reason."""


class Unreachable(HAProxyError):
    """Nothing answers at the socket."""


class Busy(HAProxyError):
    """The server cannot be deleted yet: connections hold it."""


class Server(NamedTuple):
    """A server as HAProxy has it."""

    address: str  # 10.0.0.1:8088
    state: str = "ready"  # as it was told: ready, drain or maint
    up: bool = True  # what its checks say
    sessions: int = 0  # requests that it serves or that wait for it; known while it drains


class HAProxy:
    """One backend of the HAProxy that listens at a socket."""

    def __init__(self, socket_path: str, backend: str, timeout_seconds: float = 5) -> None:
        self._socket_path, self.backend, self._timeout = socket_path, backend, timeout_seconds

    def servers(self) -> dict[str, Server]:
        """Return the servers by name. Raises HAProxyError."""
        told = self._ask(f"show servers state {self.backend}", "read the servers of")
        version, head, *lines = f"{told}\n\n".splitlines()
        if version != "1" or not head.startswith("# "):
            raise HAProxyError(f"read the servers of {self.backend}: HAProxy says: {told}")
        names = head[2:].split()
        columns = itemgetter(*(names.index(f"srv_{name}") for name in COLUMNS))
        found = {}
        for line in filter(None, lines):
            name, address, port, running, flags = columns(line.split())
            address = f"[{address}]" if ":" in address else address
            state = "ready"
            if bits := int(flags):
                state = "maint" if bits & MAINTENANCE else "drain" if bits & DRAIN else "ready"
            found[name] = Server(f"{address}:{port}", state, running in RUNNING)
        draining = [name for name, server in found.items() if server.state == "drain"]
        if draining:
            sessions = self._sessions()
            for name in draining:
                found[name] = found[name]._replace(sessions=sessions.get(name, 0))
        return found

    def add(self, name: str, address: str, options: str) -> None:
        """Add a server, which gets no requests yet. Raises HAProxyError.

        The options are those of a line `server`: what `default-server` says does not reach it.
        """
        if not ADDRESS.fullmatch(address):
            raise HAProxyError(f"add {self._named(name)}: {address!r} is no address:port")
        if not OPTIONS.fullmatch(options):
            raise HAProxyError(f"add {self._named(name)}: {options!r} are no options of a server")
        command = f"add server {self._named(name)} {address} {options}"
        self._do(command, f"add {self._named(name)}", "New server registered")

    def ready(self, name: str) -> None:
        """Let a server have requests, and check it. Raises HAProxyError."""
        action = f"set ready {self._named(name)}"
        self._do(f"enable health {self._named(name)}", action)
        self._do(f"set server {self._named(name)} state ready", action)

    def drain(self, name: str) -> None:
        """Let a server finish the requests that it has. Raises HAProxyError."""
        self._do(f"set server {self._named(name)} state drain", f"drain {self._named(name)}")

    def delete(self, name: str, wait_seconds: float = 1) -> None:
        """Delete a server whose last connection must be closed. Raises HAProxyError, Busy."""
        action, deadline = f"delete {self._named(name)}", time.monotonic() + wait_seconds
        self._do(f"set server {self._named(name)} state maint", action)
        while True:
            told = self._ask(f"del server {self._named(name)}", action)
            if told.startswith("Server deleted"):
                return
            if "connections" not in told:
                raise HAProxyError(f"{action}: HAProxy says: {told}")
            if time.monotonic() >= deadline:
                raise Busy(f"{action}: HAProxy says: {told}")
            time.sleep(RETRY_SECONDS)

    def _sessions(self) -> Mapping[str, int]:
        told = self._ask(f"show stat {self.backend} 4 -1", "read the sessions of")
        head, *lines = told.removeprefix("# ").splitlines()
        rows = (dict(zip(head.split(","), line.split(","), strict=False)) for line in lines)
        return {row["svname"]: int(row["scur"]) + int(row["qcur"]) for row in rows}

    def _named(self, name: str) -> str:
        if not NAME.fullmatch(name):
            raise HAProxyError(f"{name!r} cannot be the name of a server")
        return f"{self.backend}/{name}"

    def _do(self, command: str, action: str, success: str = "") -> None:
        told = self._ask(command, action)
        if not told.startswith(success) or (told and not success):
            raise HAProxyError(f"{action}: HAProxy says: {told}")

    def _ask(self, command: str, action: str) -> str:
        try:
            with socket.socket(socket.AF_UNIX) as runtime:
                runtime.settimeout(self._timeout)
                runtime.connect(self._socket_path)
                runtime.sendall(f"{command}\n".encode())
                with runtime.makefile("rb") as answer:
                    return answer.read().decode().strip()
        except OSError as error:
            raise Unreachable(
                f"{action}: nothing answers at {self._socket_path} ({error}): "
                "systemctl status haproxy"
            ) from error
