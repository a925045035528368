"""What a daemon of the fleet and systemd have to say to each other."""

from __future__ import annotations

import json
import logging
import os
import select
import signal
import socket
import time
from collections.abc import Callable

log = logging.getLogger(__name__)


def begin_journal() -> None:
    """Let what `tell` says go to the journal; of others, as botocore, warnings only."""
    logging.basicConfig(format="%(message)s")
    log.setLevel(logging.INFO)


def tell(event: str, error: BaseException | None = None, **values: object) -> None:
    """Write a line into the journal; values with blanks are quoted."""
    texts = {key: str(value) for key, value in values.items()}
    pairs = (
        f"{key}={json.dumps(text, ensure_ascii=False) if ' ' in text or not text else text}"
        for key, text in texts.items()
    )
    log.info("%s", " ".join([f"event={event}", *pairs]), exc_info=error)


def notify(state: str) -> None:
    """Tell systemd how this service is, where systemd started it."""
    if address := os.environ.get("NOTIFY_SOCKET"):
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as systemd:
            systemd.sendto(state.encode(), address.replace("@", "\0", 1))


def until_terminated() -> Callable[[float], bool]:
    """Return what waits so many seconds at most and tells whether this process is to end.

    SIGTERM and SIGINT interrupt that wait and nothing else, so no step is left halfway.
    """
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    signal.set_wakeup_fd(writing)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: None)
    return lambda seconds: bool(select.select([reading], [], [], seconds)[0])


def in_words(error: Exception) -> str:
    """Return an error in one line."""
    return f"{type(error).__name__}: {error}".splitlines()[0]


def repeat(
    tick: Callable[[], None],
    seconds: float,
    ended: Callable[[float], bool],
    outages: tuple[type[Exception], ...],
    failed: Callable[[], None],
) -> None:
    """Do something every so many seconds until `ended`, which waits so long at most, says so.

    Where it raises, that is told once and `failed` is called; of errors other than `outages` the
    journal gets the trace, too.
    """
    notify("READY=1")
    troubled = False
    while True:
        began = time.monotonic()
        try:
            tick()
            if troubled:
                tell("well")
            troubled = False
        except Exception as error:
            failed()
            if not troubled:  # once for each outage
                unforeseen = None if isinstance(error, outages) else error
                tell("trouble", unforeseen, reason=in_words(error))
            troubled = True
        if "WATCHDOG_USEC" in os.environ:
            notify("WATCHDOG=1")
        if ended(max(0.0, seconds - (time.monotonic() - began))):
            return
