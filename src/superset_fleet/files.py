"""Files that are replaced at once: a reader sees the old text or the new one."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path


def holds(path: Path, text: str) -> bool:
    """Tell whether a file has exactly this text. Raises OSError."""
    try:
        return path.read_bytes() == text.encode()
    except FileNotFoundError:
        return False


def sweep(path: Path) -> None:
    """Remove what a writer that was killed has left; for files that one process alone writes."""
    for left in path.parent.glob(f".{path.name}-*"):
        left.unlink(missing_ok=True)


def replace(path: Path, text: str, mode: int = 0o600) -> bool:
    """Give a file this text, where it has another; tell whether it had. Raises OSError."""
    if holds(path, text):
        return False
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}-")
    new = Path(name)
    try:
        with os.fdopen(handle, "w") as file:
            file.write(text)
            os.fchmod(file.fileno(), mode)
            file.flush()
            os.fsync(file.fileno())
        new.replace(path)
    except BaseException:
        new.unlink()  # a full disk must not be filled with attempts
        raise
    return True
