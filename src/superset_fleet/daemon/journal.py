"""Lines of the journal: an event, and values that are quoted where they have blanks."""

from __future__ import annotations

import json
import logging

log = logging.getLogger("superset_fleet")


def begin_journal() -> None:
    """Let a daemon's lines go to the journal, where Superset and Celery do not see to it."""
    logging.basicConfig(format="%(message)s")


def tell(event: str, error: BaseException | None = None, **values: object) -> None:
    """Write a line, and the trace of an error.

    It is a warning, whatever it says: Superset and Celery may show nothing below that.
    """
    texts = {key: str(value) for key, value in values.items()}
    pairs = (
        f"{key}={text if text.split() == [text] else json.dumps(text, ensure_ascii=False)}"
        for key, text in texts.items()
    )
    log.warning("%s", " ".join([f"event={event}", *pairs]), exc_info=error)


def in_words(error: BaseException) -> str:
    """Return an error in one line."""
    return f"{type(error).__name__}: {error}".splitlines()[0]
