"""What a daemon of the fleet and systemd have to say to each other."""

from __future__ import annotations

import json
import logging
import os
import select
import signal
import socket
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
        f"{key}={json.dumps(text) if ' ' in text or not text else text}"
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
