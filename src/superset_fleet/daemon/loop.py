"""The loop of every daemon, and what systemd hears of it."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import socket
import time
from collections.abc import Callable

from .journal import in_words, tell


def notify(state: str, flags: int = 0) -> None:
    """Tell systemd how this service is, where systemd started it."""
    if address := os.environ.get("NOTIFY_SOCKET"):
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as systemd:
            systemd.sendto(state.encode(), flags, address.replace("@", "\0", 1))


def notify_alive(more: str = "") -> None:
    """Tell systemd that this service makes progress; wait for nothing where it does not listen."""
    with contextlib.suppress(OSError):
        notify(f"{more}WATCHDOG=1", socket.MSG_DONTWAIT)


def until_terminated() -> Callable[[float], bool]:
    """Return what waits so many seconds at most and tells whether this process is to stop.

    SIGTERM and SIGINT interrupt that wait and nothing else, so no step is left halfway.
    """
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    signal.set_wakeup_fd(writing)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: None)
    return lambda seconds: bool(select.select([reading], [], [], seconds)[0])


def run(
    step: Callable[[], float | None],
    terminated: Callable[[float], bool],
    status: Callable[[], str] = lambda: "",
) -> bool:
    """Take steps until one has finished the work or `terminated` is true; return the former.

    A step returns the seconds until the next one, None when nothing is left to do. `terminated`
    waits so long at most. After each step systemd hears that the daemon lives, and its `status`
    in a few words; after the first one that it is ready.
    """
    news = "READY=1\n"
    while (pause := step()) is not None:
        notify(f"{news}WATCHDOG=1\nSTATUS={status()}")
        news = ""
        if terminated(pause):
            break
    notify("STOPPING=1")
    return pause is None


def repeat(
    tick: Callable[[], None],
    seconds: float,
    terminated: Callable[[float], bool],
    outages: tuple[type[Exception], ...],
    status: Callable[[], str] = lambda: "",
    failed: Callable[[], None] = lambda: None,
) -> None:
    """Do something every so many seconds until `terminated`, whatever it raises.

    An error is told once for each outage, and `failed` is called each time. Of errors other than
    `outages` the journal gets the trace, too.
    """
    trouble = ""

    def step() -> float:
        nonlocal trouble
        began = time.monotonic()
        try:
            tick()
            if trouble:
                tell("well")
            trouble = ""
        except Exception as error:
            failed()
            if not trouble:
                unforeseen = None if isinstance(error, outages) else error
                tell("trouble", unforeseen, reason=in_words(error))
            trouble = in_words(error)
        return max(0.0, seconds - (time.monotonic() - began))

    run(step, terminated, lambda: trouble or status())
