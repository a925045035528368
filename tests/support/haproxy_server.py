"""HAProxy with the configuration of the role haproxy, on ports of 127.0.0.1, and servers for it."""

from __future__ import annotations

import http.client
import importlib.util
import os
import re
import secrets
import shutil
import signal
import socket
import socketserver
import subprocess
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler
from itertools import cycle
from pathlib import Path
from typing import Any

import yaml
from ansible.parsing.dataloader import DataLoader
from ansible.template import Templar, trust_as_template

from superset_fleet.membership.haproxy import HAProxy
from tests.support.servers import free_port
from tests.support.waiting import DEADLINE_SECONDS, until

ROLE = Path(__file__).parents[2] / "roles" / "haproxy"
BACKEND = "superset_web"
OPTIONS = "check inter 200ms fall 3 rise 2"


# -- Servers --------------------------------------------------------------------------------------
class Web(socketserver.ThreadingTCPServer):
    """A web server that answers with its own address, and counts what it is asked."""

    allow_reuse_address = True
    daemon_threads = True
    request_queue_size = 128

    def __init__(self, address: str = "127.0.0.1", port: int = 0) -> None:
        super().__init__((address, port), WebHandler)
        host, number = self.server_address[:2]
        self.endpoint = f"{host!s}:{number}"
        self.paths: Counter[str] = Counter()
        self.healthy = True
        self.lacking: set[str] = set()  # paths that it does not have
        self.holding: tuple[str, ...] = ()  # methods by which pages are held back
        self.held: Counter[str] = Counter()  # pages that were held back, by method
        self.hold = threading.Event()  # set: what is held back is answered
        self.connections: set[socket.socket] = set()
        self.serving: set[socket.socket] = set()  # connections with a request
        threading.Thread(target=self.serve_forever, args=(0.02,), daemon=True).start()

    def stop(self) -> None:
        """End: from now on connections are refused."""
        self.shutdown()
        self.server_close()

    def kill(self) -> None:
        """End at once, with what is being served."""
        self.stop()
        for connection in list(self.connections):
            with suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
        self.hold.set()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Say nothing of connections that HAProxy closed, as it does after checks."""


class WebHandler(BaseHTTPRequestHandler):
    """Keeps connections alive, as gunicorn does."""

    server: Web
    protocol_version = "HTTP/1.1"

    def setup(self) -> None:
        super().setup()
        self.server.connections.add(self.request)

    def finish(self) -> None:
        super().finish()
        self.server.connections.discard(self.request)
        self.server.serving.discard(self.request)

    def do_GET(self) -> None:
        self.server.serving.add(self.request)
        self.server.paths[self.path] += 1
        if self.path == "/page" and self.command in self.server.holding:
            self.server.held[self.command] += 1
            self.server.hold.wait(DEADLINE_SECONDS)
        elif self.path == "/slow":
            self.server.hold.wait(DEADLINE_SECONDS)
        checked = self.path in ("/health", "/ready")
        body = f"served by {self.server.endpoint}".encode()
        status = 404 if self.path in self.server.lacking else 200
        self.send_response(503 if checked and not self.server.healthy else status)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Set-Cookie", "session=nobody; Path=/")
        if self.path == "/static/kept.js":
            self.send_header("Cache-Control", "max-age=60")
        self.end_headers()
        self.wfile.write(body)
        self.server.serving.discard(self.request)

    do_POST = do_GET

    def log_message(self, *_: Any) -> None:
        """Say nothing."""


# -- HAProxy --------------------------------------------------------------------------------------
def configuration(**inputs: Any) -> str:
    """Return the role's configuration, as on a machine."""
    given = {
        "haproxy_membership": "daemon",
        "haproxy_membership_port": 8405,
        "haproxy_check_path": "/ready",
        "haproxy_certificate": "",
        "haproxy_server_timeout_seconds": 20,
        "haproxy_keepalive_seconds": 60,
        "haproxy_private_address": "127.0.0.1",
        "haproxy_workers_port": 8090,
        "haproxy_workers_networks": ["192.0.2.0/24"],
        "haproxy_stats_port": 8404,
        "haproxy_server_options": OPTIONS,
    }
    defaults = yaml.safe_load((ROLE / "defaults" / "main.yml").read_text())
    templar = Templar(DataLoader(), {"ansible_managed": "managed", **defaults, **given, **inputs})
    text = (ROLE / "templates" / "haproxy.cfg.j2").read_text()
    return str(templar.template(trust_as_template(text)))


def join_script() -> Any:
    """Return roles/haproxy/files/haproxy_join.py as a module."""
    path = ROLE / "files" / "haproxy_join.py"
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


class Balancer:
    """A running HAProxy, started, reloaded and restarted as its unit does it."""

    def __init__(self, directory: Path, **inputs: Any) -> None:
        self.directory, self.port, self.inputs = directory, free_port(), inputs
        self.private_port, self.workers_port, self.metrics_port = (free_port() for _ in range(3))
        self.socket = str(directory / "admin.sock")
        self.api = HAProxy(self.socket, BACKEND)
        self.servers_file = directory / "servers.cfg"
        self.name = f"balance-{secrets.token_hex(4)}"  # all network namespaces' abns are one
        self.process: subprocess.Popen[bytes] | None = None
        self.join = join_script()
        self.join.WRITTEN = directory / "fleet.cfg"
        self.join.SERVERS = self.servers_file
        self.join.JOINED = directory / "haproxy.cfg"
        self.join.SOCKET = self.socket
        self.join.STATE = directory / "servers.state"
        (directory / "stats.credentials").write_text("Basic YWRtaW46c2VjcmV0\n")  # admin:secret
        shutil.copy(ROLE / "files" / "maintenance.html", directory)

    def write(self, servers: dict[str, str]) -> None:
        """Write the configuration as the role does, and the servers."""
        self.servers_file.write_text(
            "".join(f"    server {name} {address}\n" for name, address in servers.items())
        )
        text = configuration(
            haproxy_stats_port=self.private_port,
            haproxy_workers_port=self.workers_port,
            haproxy_membership_port=self.metrics_port,
            **self.inputs,
        )
        text = re.sub(r"^    (log|chroot|user|group) /?\w.*\n", "", text, flags=re.MULTILINE)
        text = re.sub(r"^    log global\n", "", text, flags=re.MULTILINE)
        for old, new in {
            "/run/haproxy/admin.sock mode 660 group haproxy": self.socket,
            "/var/lib/haproxy": str(self.directory),
            "/etc/haproxy": str(self.directory),
            "bind :80": f"bind 127.0.0.1:{self.port}",
            "abns@balance": f"abns@{self.name}",
        }.items():
            text = text.replace(old, new)
        self.join.WRITTEN.write_text(text)

    def start(self) -> None:
        """Start, and wait until it answers."""
        self.join.join()
        program = shutil.which("haproxy", path=f"{os.environ['PATH']}:/usr/sbin")
        assert program, "install the package haproxy"
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as systemd:
            notify = self.directory / "notify"
            notify.unlink(missing_ok=True)
            systemd.bind(str(notify))
            systemd.settimeout(DEADLINE_SECONDS)
            self.process = subprocess.Popen(
                [program, "-Ws", "-q", "-f", str(self.join.JOINED)],
                env=os.environ | {"NOTIFY_SOCKET": str(notify)},
                stderr=subprocess.DEVNULL,
            )
            # Before that, the signal to reload could be lost.
            until(lambda: b"READY=1" in systemd.recv(1000), "HAProxy is ready")
        until(lambda: self.pid() is not None, "HAProxy answers")

    def stop(self) -> None:
        """Stop as systemd stops it."""
        self.join.save_state()
        assert self.process
        self.process.terminate()
        self.process.wait(DEADLINE_SECONDS)

    def reload(self) -> None:
        """Reload, and wait until the new process answers."""
        before = self.pid()
        self.join.join()
        self.join.save_state()
        asked = 0.0

        def replaced() -> bool:
            nonlocal asked
            if time.monotonic() > asked + 2:  # a signal is lost while it still reloads
                asked = time.monotonic()
                assert self.process
                self.process.send_signal(signal.SIGUSR2)
            return self.pid() not in (before, None)

        until(replaced, "the new process answers")

    def pid(self) -> str | None:
        """Return the process that answers at the socket, or None."""
        try:
            with socket.socket(socket.AF_UNIX) as runtime:
                runtime.settimeout(5)
                runtime.connect(self.socket)
                runtime.sendall(b"show info\n")
                told = runtime.makefile().read()
        except OSError:
            return None
        return next(line for line in told.splitlines() if line.startswith("Pid:"))

    def in_use(self) -> dict[str, str]:
        """Return the servers that get requests, with their addresses."""
        servers = self.api.servers()
        return {name: one.address for name, one in servers.items() if one.state == "ready"}

    def get(self, path: str = "/", port: int = 0) -> tuple[int, str]:
        """Ask as a user does, or at another port than users."""
        reply, body = self.ask(path, port)
        return reply.status, body

    def ask(self, path: str, port: int = 0) -> tuple[http.client.HTTPResponse, str]:
        """Ask, for the headers too."""
        connection = http.client.HTTPConnection(
            "127.0.0.1", port or self.port, timeout=DEADLINE_SECONDS
        )
        try:
            connection.request("GET", path)
            reply = connection.getresponse()
            return reply, reply.read().decode()
        finally:
            connection.close()


@contextmanager
def balancer(
    directory: Path, servers: dict[str, str] | None = None, **inputs: Any
) -> Iterator[Balancer]:
    """Run HAProxy, with servers to begin with."""
    made = Balancer(directory, **inputs)
    made.write(servers or {})
    made.start()
    try:
        yield made
    finally:
        assert made.process
        made.process.terminate()
        try:
            made.process.wait(5)
        except subprocess.TimeoutExpired:
            made.process.kill()
            made.process.wait()


# -- Load -----------------------------------------------------------------------------------------
class Load:
    """Users with keep-alive connections, who read and write, and count what went wrong.

    Each request is made once, on the connection that is there: whatever comes of it but the right
    answer is a failure, also where a browser would try again.
    """

    def __init__(self, port: int, users: int = 8) -> None:
        self.port = port
        self.served: Counter[str] = Counter()  # by the body
        self.failed: Counter[str] = Counter()  # by what went wrong
        self._over = threading.Event()
        self._users = [threading.Thread(target=self._use, daemon=True) for _ in range(users)]

    def __enter__(self) -> Load:
        for user in self._users:
            user.start()
        until(lambda: self.served or self.failed, "the first request is answered")
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        for user in self._users:
            user.join(DEADLINE_SECONDS)

    def more(self, requests: int = 50) -> None:
        """Wait until so many more requests were made."""
        enough = self.served.total() + self.failed.total() + requests
        until(lambda: self.served.total() + self.failed.total() >= enough, "requests are made")

    def _use(self) -> None:
        connection = None
        for method in cycle(("GET", "POST")):
            if self._over.is_set():
                return
            try:
                if connection is None:
                    connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=10)
                    connection.connect()
                connection.request(method, "/page")
                reply = connection.getresponse()
                body = reply.read().decode()
            except (OSError, http.client.HTTPException) as error:
                self.failed[type(error).__name__] += 1
            else:
                if reply.status != 200:
                    self.failed[f"status {reply.status}"] += 1
                elif not body.startswith("served by "):
                    self.failed["wrong body"] += 1
                else:
                    self.served[body] += 1
                if not reply.will_close:
                    continue
            assert connection
            connection.close()
            connection = None
