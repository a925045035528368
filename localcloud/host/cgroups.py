"""Control groups: what runs in those of a cloud, freezing a machine, removing what is left."""

import contextlib
import os
import signal
from pathlib import Path

from localcloud.cloud import Cloud, CloudError
from localcloud.host.system import persist


def roots() -> list[Path]:
    """Return the mount points of the control group hierarchies, cgroup v1 and v2.

    Without cpuset of v1: systemd does not use it, and a fresh group in it takes no process.
    """
    found = []
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        words = line.split()
        kind, _, options = words[words.index("-") + 1 :][:3]
        if kind in ("cgroup", "cgroup2") and "cpuset" not in options.split(","):
            found.append(Path(words[4]))
    return found


def tree(group: Path) -> list[Path]:
    """Return a control group and those below it, these first; not those that vanish meanwhile."""
    return [Path(directory) for directory, _, _ in os.walk(group, topdown=False)]


def processes(group: Path) -> list[int]:
    """Return the ids of the processes in a control group and in those below it."""
    found = []
    for directory in tree(group):
        with contextlib.suppress(OSError):
            text = (directory / "cgroup.procs").read_text()
            found += [int(pid) for pid in text.split() if pid != "0"]
    return found


def of(cloud: Cloud) -> list[Path]:
    """Return the cloud's control groups, one per hierarchy where it has one."""
    return [path for root in roots() if (path := root / cloud.name).is_dir()]


def remove(group: Path) -> None:
    """Kill what runs in a control group, and remove it with those below it."""
    for pid in processes(group):
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    for path in tree(group):
        with contextlib.suppress(FileNotFoundError):
            persist(path.rmdir)


def freezer(cloud: Cloud, name: str) -> Path | None:
    """Return the file that freezes a machine's control group: of v1 where there is one, else of v2.

    None: the machine has no control group any more.
    """
    names = (f"{cloud.name}/{name}", f"system.slice/{cloud.name}-{name}.scope")
    for switch in ("freezer.state", "cgroup.freeze"):
        for path in [root / name / switch for root in roots() for name in names]:
            if path.exists():
                return path
    return None


def freeze(cloud: Cloud, name: str) -> None:
    """Freeze a machine's processes. Raises CloudError when they cannot be frozen."""
    path = freezer(cloud, name)
    if path is None:
        raise CloudError(f"the machine of {name} has no control group that can be frozen")
    if path.name == "cgroup.freeze":
        path.write_text("1")
        return

    def frozen() -> None:
        path.write_text("FROZEN")
        if path.read_text().strip() != "FROZEN":
            raise CloudError(f"the machine of {name} cannot be frozen")

    persist(frozen)


def thaw(cloud: Cloud, name: str) -> None:
    """Let a machine's processes go on; nothing to do when they do, or are gone."""
    if path := freezer(cloud, name):
        with contextlib.suppress(FileNotFoundError):
            path.write_text("0" if path.name == "cgroup.freeze" else "THAWED")
