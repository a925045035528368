"""Commands, locks, mounts and files."""

import contextlib
import fcntl
import os
import re
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from localcloud.cloud import CloudError


def run(*command: str | Path, input: str | None = None) -> str:
    """Run a command and return its output.

    Raises CloudError with the command and what it said, when it fails.
    """
    words = [str(word) for word in command]
    try:
        done = subprocess.run(words, input=input, capture_output=True, text=True, check=False)
    except FileNotFoundError as error:
        raise CloudError(f"{words[0]} is missing; `localcloud up` tells what to do") from error
    if done.returncode:
        said = (done.stderr or done.stdout).strip()
        raise CloudError(f"`{' '.join(words)}` failed ({done.returncode}): {said}")
    return done.stdout


@contextlib.contextmanager
def lock(path: Path, message: str = "") -> Iterator[None]:
    """Hold an exclusive lock on `path`; the kernel drops it when this process dies."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if message:
                print(message, flush=True)
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


def persist(action: Callable[[], object], timeout_seconds: float = 5) -> None:
    """Call `action` until the kernel allows it, as it may not while a process still exits.

    Raises what `action` raises: FileNotFoundError at once, others after `timeout_seconds`.
    """
    deadline = time.monotonic() + timeout_seconds
    while True:
        try:
            action()
            return
        except FileNotFoundError:
            raise
        except (OSError, CloudError):
            if time.monotonic() > deadline:
                raise
            time.sleep(0.05)


def unmount_below(directory: Path) -> None:
    """Unmount all that is mounted below `directory` in this mount namespace."""
    mounts = [line.split()[4] for line in Path("/proc/self/mountinfo").read_text().splitlines()]
    for mount in reversed(mounts):
        point = Path(re.sub(r"\\(\d{3})", lambda code: chr(int(code[1], 8)), mount))
        if directory in point.parents:
            run("umount", point)


def remove_tree(directory: Path) -> None:
    if directory.exists():
        shutil.rmtree(directory)


def write(path: Path, text: str, mode: int = 0o644) -> None:
    """Write a file at once: readers see the old text or the new, never a part."""
    new = path.with_name(f".{path.name}.new")
    new.unlink(missing_ok=True)
    with os.fdopen(os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "w") as file:
        file.write(text)
    new.rename(path)


def tail(path: Path, lines: int = 15) -> str:
    """Return the last lines of a file."""
    return "\n".join(path.read_text(errors="replace").splitlines()[-lines:])
