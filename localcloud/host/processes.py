"""The processes of a cloud: those that carry its mark, and those in its control groups."""

import contextlib
import os
import signal
import time
from pathlib import Path

from localcloud.cloud import MARK, Cloud, CloudError
from localcloud.host import cgroups


def living(cloud: Cloud) -> list[int]:
    """Return the ids of the cloud's processes that live, without the one that asks."""
    mark = f"{MARK}={cloud.name}".encode()
    found = []
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit() or int(entry.name) == os.getpid():
            continue
        with contextlib.suppress(OSError):  # it exited while we looked
            if mark in (entry / "environ").read_bytes().split(b"\0"):
                found.append(int(entry.name))
    return found + [pid for group in cgroups.of(cloud) for pid in cgroups.processes(group)]


def kill(cloud: Cloud, timeout_seconds: float = 10) -> None:
    """Kill every process of the cloud.

    The machines are switched off, not shut down: nothing of them is kept. A machine dies with its
    systemd-nspawn, as the kernel signals its init when that parent dies.
    Raises CloudError when one is still there after `timeout_seconds`.
    """
    deadline = time.monotonic() + timeout_seconds
    while left := living(cloud):
        for group in cgroups.of(cloud):  # of a paused machine: what is frozen cannot die
            for directory in cgroups.tree(group):
                with contextlib.suppress(OSError):
                    (directory / "freezer.state").write_text("THAWED")
        if time.monotonic() > deadline:
            raise CloudError(f"processes {left} of the local cloud do not die; look at them")
        for pid in left:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        time.sleep(0.05)
