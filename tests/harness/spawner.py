"""Starts Python processes quickly: forks them from one that has imported what they need.

    python spawner.py MODULE...   # then one order in each line of its input

A worker of Celery takes a second to import and a tenth to begin. What is forked is a process like
any other, with a session and a journal of its own.
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
import importlib
import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tests.support.waiting import until

PR_SET_PDEATHSIG = 1  # of Linux' prctl: the signal that a process gets when its parent dies
MODULES = [
    "billiard.heap",
    "billiard.popen_fork",
    "billiard.sharedctypes",
    "celery.__main__",
    "celery.app.amqp",
    "celery.app.control",
    "celery.app.events",
    "celery.app.log",
    "celery.apps.worker",
    "celery.bin.celery",
    "celery.bin.worker",
    "celery.concurrency.prefork",
    "celery.fixups.django",
    "celery.worker.autoscale",
    "celery.worker.components",
    "celery.worker.consumer",
    "celery.worker.consumer.delayed_delivery",
    "celery.worker.strategy",
    "flask_caching.backends.rediscache",
    "flask_sqlalchemy",
    "kombu.pidbox",
    "kombu.transport.redis",
    "psycopg2.extras",
    "sqlalchemy.dialects.postgresql.psycopg2",
    "sqlglot.dialects.postgres",
    "superset_fleet.guard.setup",
    "superset_fleet.scaler.daemon",
    "superset_fleet.watchdog.daemon",
    "werkzeug.serving",
]


class Process:
    """A process that was forked; its group are all that it forks itself."""

    def __init__(self, spawner: Spawner, number: int, pid: int, journal: Path) -> None:
        self._spawner, self._number, self.pid, self.journal = spawner, number, pid, journal

    @property
    def status(self) -> int | None:
        """Its exit status, negative for a signal; None as long as it runs."""
        return self._spawner.status(self._number)

    def signal(self, number: int, whole: bool = True) -> None:
        """Send a signal to it and its children, or to it alone; nothing where it is gone."""
        if self.status is None:  # else another process may have its id by now
            with contextlib.suppress(ProcessLookupError):
                (os.killpg if whole else os.kill)(self.pid, number)

    def kill(self) -> None:
        """Let it and its children be no more."""
        self.signal(signal.SIGKILL)
        self.wait()

    def pause(self) -> None:
        """Let it stand still."""
        self.signal(signal.SIGSTOP)

    def resume(self) -> None:
        """Let it go on."""
        self.signal(signal.SIGCONT)

    def wait(self) -> int:
        """Return how it exits."""
        until(lambda: self.status is not None, f"process {self.pid} exits")
        status = self.status
        assert status is not None
        return status

    def children(self) -> list[int]:
        """Return the processes that it forked."""
        return [
            int(pid)
            for pid in Path(f"/proc/{self.pid}/task/{self.pid}/children").read_text().split()
        ]


class Spawner:
    """The process that forks, with this environment."""

    def __init__(self, environment: Mapping[str, str]) -> None:
        self._process = subprocess.Popen(
            [sys.executable, __file__, *MODULES],
            env={**os.environ, **environment},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self._lock = threading.Lock()  # the cloud starts machines, too

    def start(
        self, target: str, arguments: list[str], environment: Mapping[str, str], journal: Path
    ) -> Process:
        """Start `module:function` with a command line and more environment."""
        order = {
            "target": target,
            "arguments": arguments,
            "environment": dict(environment),
            "journal": str(journal),
        }
        number, pid = self._ask(order)
        return Process(self, number, pid, journal)

    def status(self, number: int) -> int | None:
        """Return the exit status of the process of this number, None as long as it runs."""
        status: int | None = self._ask({"status": number})
        return status

    def close(self) -> None:
        """Kill all that was started, and this."""
        assert self._process.stdin
        self._process.stdin.close()
        self._process.wait()

    def _ask(self, order: Mapping[str, Any]) -> Any:
        assert self._process.stdin and self._process.stdout
        with self._lock:
            print(json.dumps(order), file=self._process.stdin, flush=True)
            return json.loads(self._process.stdout.readline())


# -- The process that forks -----------------------------------------------------------------------
def become(order: Mapping[str, Any]) -> None:
    """Be what is ordered, in a child that does not outlive this process."""
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    os.setsid()
    with Path(order["journal"]).open("a") as journal:
        os.dup2(journal.fileno(), 1)
        os.dup2(journal.fileno(), 2)
    os.close(0)
    os.environ.update(order["environment"])
    module, _, function = order["target"].partition(":")
    sys.argv = [function, *order["arguments"]]
    getattr(importlib.import_module(module), function)()


def fork(order: Mapping[str, Any]) -> int:
    """Fork, and return the child's id."""
    pid = os.fork()
    if pid:
        return pid
    status = 1
    try:
        become(order)
        status = 0
    except SystemExit as error:
        status = error.code if isinstance(error.code, int) else int(error.code is not None)
        if isinstance(error.code, str):
            print(error.code, file=sys.stderr)
    except BaseException:
        sys.excepthook(*sys.exc_info())
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


def main() -> None:
    """Fork as ordered until there are no more orders; then kill what is left."""
    for name in sys.argv[1:]:
        importlib.import_module(name)
    gc.freeze()  # else each fork of a fork looks through, and so copies, all that
    # Processes have numbers, since the kernel gives the id of one that has exited to another.
    running: dict[int, int] = {}
    exited: dict[int, int] = {}
    for line in sys.stdin:
        order = json.loads(line)
        for number, pid in list(running.items()):
            gone, status = os.waitpid(pid, os.WNOHANG)
            if gone:
                del running[number]
                exited[number] = os.waitstatus_to_exitcode(status)
        if "status" in order:
            answer: object = exited.get(order["status"])
        else:
            number = len(running) + len(exited)
            running[number] = fork(order)
            answer = [number, running[number]]
        print(json.dumps(answer), flush=True)
    for pid in running.values():
        with contextlib.suppress(ProcessLookupError):
            os.killpg(pid, signal.SIGKILL)


if __name__ == "__main__":
    main()
