"""A web process of gunicorn whose threads are given as `threads` says.

gunicorn gives each connection to the next free thread, in turn. Here the first bytes of a request
are looked at before that, in the loop that accepts connections; connections that are silent, or
closed, take no thread at all.
"""

from __future__ import annotations

import json
import socket
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from typing import Any

from gunicorn.workers.gthread import _DEFER, TConn, ThreadWorker

from ...daemon.journal import tell
from ...times import TIMES
from ..refusals import too_many
from .threads import Threads, asked, serving

HEAD_BYTES = 32768  # HAProxy sends no longer head: its tune.bufsize
ESTABLISHED = 1  # of a TCP connection: neither side has closed it
ASIDE_THREADS = 2
REFUSING_THREADS = 2  # of their own: to close a connection may take its other side two seconds
BUSY = (
    "Superset is busy with other requests: this one has waited for "
    f"{TIMES.web_wait_seconds:.0f} s and was not begun. Try again in a minute."
)
TOO_MANY = (
    b"HTTP/1.1 429 Too Many Requests\r\nRetry-After: 60\r\nCache-Control: no-store\r\n"
    b"Connection: close\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%b"
)


class Process(ThreadWorker):  # type: ignore[misc]
    """What `worker_class` names in gunicorn.conf.py."""

    def get_thread_pool(self) -> ThreadPoolExecutor:
        """Make the threads, in this process; the pool that gunicorn knows is for what is aside."""
        self.threads = Threads(self.cfg.threads, self.serve)
        self.refusing = ThreadPoolExecutor(REFUSING_THREADS, "refusing")
        return ThreadPoolExecutor(ASIDE_THREADS, "aside")

    def enqueue_req(self, conn: TConn) -> None:
        """Let a connection be served when it is its turn, or wait for what it asks."""
        try:
            head = head_of(conn)
        except BlockingIOError:
            silent: Future[object] = Future()
            silent.set_result(_DEFER)
            self.finish_request(conn, silent)  # which looks at it again when it says something
            return
        except OSError:
            head = b""
        if not head:
            self.nr_conns -= 1
            conn.close()
            return
        conn.data_ready = True
        one = asked(head)
        if one.aside:
            self.tpool.submit(self.serve, conn)
        else:
            self.threads.submit(one, conn)

    def serve(self, conn: TConn) -> None:
        """Serve a request, in a thread, and close the connection there, unless it is kept.

        To close it takes as long as its other side reads, for which the loop must not wait.
        """
        kept = False
        serving.client = conn.sock
        try:
            kept = not is_left(conn.sock) and self.handle(conn)
        except BaseException as error:  # such as SystemExit; a thread less would be one for good
            tell("request_failed", error)
        serving.client = None
        if kept:
            served: Future[bool] = Future()
            served.set_result(kept)
            self.method_queue.defer(self.finish_request, conn, served)
        else:
            self.drop(conn)

    def drop(self, conn: TConn) -> None:
        """Close a connection, in a thread."""
        with suppress(OSError):
            conn.close(graceful=True)
        self.method_queue.defer(self.forget)

    def forget(self) -> None:
        """Count a connection no more, in the loop."""
        self.nr_conns -= 1

    def notify(self) -> None:
        """Tell the parent, once a second, that this process lives: not while all threads are stuck.

        Then it is killed, as when it said nothing for gunicorn's `timeout`, and replaced.
        """
        if not self.threads.stuck(self.cfg.timeout):
            super().notify()

    def murder_pending(self) -> None:
        """Do what gunicorn's loop does once a second, and refuse what has waited for too long."""
        super().murder_pending()
        for conn in self.threads.overdue(TIMES.web_wait_seconds):
            self.refusing.submit(self.drop if is_left(conn.sock) else self.refuse, conn)

    def refuse(self, conn: TConn) -> None:
        """Answer that no thread was free in time, and close the connection."""
        body = json.dumps(too_many(BUSY)).encode()
        with suppress(OSError):
            conn.sock.settimeout(1)
            conn.sock.sendall(TOO_MANY % (len(body), body))
        tell("refused_busy", seconds=TIMES.web_wait_seconds)
        self.drop(conn)


def head_of(conn: TConn) -> bytes:
    """Return the first bytes of what a connection asks, which stay there to be read.

    Raises BlockingIOError where there are none yet. None at all: it is closed.
    """
    read_ahead: bytes = conn.parser.unreader.buf.getvalue() if conn.parser else b""
    found: Any = read_ahead or conn.sock.recv(HEAD_BYTES, socket.MSG_PEEK | socket.MSG_DONTWAIT)
    return bytes(found)


def is_left(connection: socket.socket) -> bool:
    """Tell whether who asked has gone meanwhile, as HAProxy tells by closing the connection."""
    state: int = connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 1)[0]
    return state != ESTABLISHED
