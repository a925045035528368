"""What one local cloud is called, where its state lives, and which processes are its own."""

import contextlib
import fcntl
import hashlib
import os
import re
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

REGION = "us-east-1"
API_PORT = 4566
# Every process that a cloud starts carries this variable, with the cloud's name as its value. It
# is inherited, cannot be lost in a crash, and needs no file that a crash could leave stale.
MARK = "LOCALCLOUD_NAME"
RUN = Path("/run/localcloud")  # what all clouds of this host share: a lock, the changed sysctl


class CloudError(Exception):
    """Something that the user can mend; the message says what failed and what to do."""


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


@dataclass(frozen=True)
class Cloud:
    """One local cloud: all its names come from the path of its state directory."""

    state: Path

    @property
    def tag(self) -> str:
        return hashlib.sha256(str(self.state).encode()).hexdigest()[:8]

    @property
    def name(self) -> str:
        """Name of the network namespace, the control group and the mark of processes."""
        return f"localcloud-{self.tag}"

    @property
    def link(self) -> str:
        """Name of the host's end of the cable into the cloud."""
        return f"lc-{self.tag}"

    @property
    def images(self) -> Path:
        return self.state / "images"

    @property
    def machines(self) -> Path:
        return self.state / "machines"

    @property
    def log(self) -> Path:
        return self.state / "cloud.log"

    @property
    def aws_config(self) -> Path:
        return self.state / "aws.ini"

    @property
    def parameters(self) -> Path:
        return self.state / "parameters.json"

    def environment(self) -> dict[str, str]:
        """Environment of a process that belongs to this cloud."""
        return {**os.environ, MARK: self.name}

    def processes(self) -> list[int]:
        """Ids of the living processes that belong to this cloud."""
        mark = f"{MARK}={self.name}".encode()
        found = []
        for entry in Path("/proc").iterdir():
            if not entry.name.isdigit() or int(entry.name) == os.getpid():
                continue
            with contextlib.suppress(OSError):  # it ended while we looked
                if mark in (entry / "environ").read_bytes().split(b"\0"):
                    found.append(int(entry.name))
        return found + [pid for group in self.cgroups() for pid in cgroup_processes(group)]

    def kill(self, timeout_seconds: float = 10) -> None:
        """End every process of this cloud.

        The machines are switched off, not shut down: nothing of them is kept, and a machine ends
        with its systemd-nspawn, as the kernel signals its init when that parent dies.
        Raises CloudError when one is still there after `timeout_seconds`.
        """
        deadline = time.monotonic() + timeout_seconds
        while left := self.processes():
            for group in self.cgroups():  # of a paused machine: what is frozen cannot die
                for directory in tree(group):
                    with contextlib.suppress(OSError):
                        (directory / "freezer.state").write_text("THAWED")
            if time.monotonic() > deadline:
                raise CloudError(f"processes {left} of the local cloud do not end; look at them")
            for pid in left:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            time.sleep(0.05)

    def cgroups(self) -> list[Path]:
        """The cloud's control groups, one per hierarchy where it has one."""
        return [path for root in cgroup_roots() if (path := root / self.name).is_dir()]

    def remove_cgroups(self) -> None:
        for group in self.cgroups():
            remove_cgroup(group)

    @contextlib.contextmanager
    def lock(self) -> Iterator[None]:
        """Let one `up` or `down` of this cloud run at a time."""
        self.state.mkdir(parents=True, exist_ok=True, mode=0o755)
        with lock(self.state / "lock", f"another command works on {self.state}, waiting for it"):
            yield


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


def cgroup_roots() -> list[Path]:
    """Mount points of the control group hierarchies, cgroup v1 and v2.

    Without cpuset of v1: systemd does not use it, and a fresh group in it takes no process.
    """
    roots = []
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        words = line.split()
        kind, _, options = words[words.index("-") + 1 :][:3]
        if kind in ("cgroup", "cgroup2") and "cpuset" not in options.split(","):
            roots.append(Path(words[4]))
    return roots


def tree(group: Path) -> list[Path]:
    """A control group and those below it, these first; not those that vanish meanwhile."""
    return [Path(directory) for directory, _, _ in os.walk(group, topdown=False)]


def cgroup_processes(group: Path) -> list[int]:
    found = []
    for directory in tree(group):
        with contextlib.suppress(OSError):
            text = (directory / "cgroup.procs").read_text()
            found += [int(pid) for pid in text.split() if pid != "0"]
    return found


def remove_cgroup(group: Path) -> None:
    """End what runs in a control group, and remove it with those below it."""
    for pid in cgroup_processes(group):
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    for path in tree(group):
        with contextlib.suppress(FileNotFoundError):
            persist(path.rmdir)


def persist(action: Callable[[], object], timeout_seconds: float = 5) -> None:
    """Do something that the kernel refuses while a process is still on its way out."""
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
    return "\n".join(path.read_text(errors="replace").splitlines()[-lines:])
