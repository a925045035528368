"""systemd-nspawn: a process of the host for each machine, with the guest's init as its child."""

import contextlib
import os
import signal
import subprocess
from pathlib import Path

from localcloud.cloud import Cloud
from localcloud.host import cgroups, network

REBOOT = 133  # its exit status when the guest asked for a reboot

# Enter the control groups before "--", then become the command after it.
ENTER = """
while [ "$1" != -- ]; do echo $$ > "$1/cgroup.procs" || exit 1; shift; done; shift; exec "$@"
"""


def launch(cloud: Cloud, name: str, root: Path, console: Path) -> subprocess.Popen[bytes]:
    """Boot the file system `root` as machine `name`, in a control group of its own.

    Where systemd is PID 1 it owns the control groups, so the machine becomes a transient scope of
    it; elsewhere we make them. Machines that shared one would stop each other's services.
    """
    nspawn = [
        "systemd-nspawn",
        "--quiet",
        "--boot",
        f"--directory={root}",
        f"--machine={name}",
        f"--network-bridge={network.BRIDGE}",
        "--register=no",
        "--keep-unit",
        "--settings=no",
        "--resolv-conf=off",
        "--timezone=off",
        "--link-journal=no",
        "--console=read-only",
    ]
    if Path("/run/systemd/system").is_dir():
        unit = ["--quiet", "--collect", f"--unit={cloud.name}-{name}", "--property=Delegate=yes"]
        command = ["systemd-run", "--scope", *unit, *nspawn]
    else:
        groups = [root_group / cloud.name / name for root_group in cgroups.roots()]
        for group in groups:
            group.mkdir(parents=True, exist_ok=True)
        command = ["sh", "-c", ENTER, "enter", *map(str, groups), "--", *nspawn]
    with console.open("ab") as output:
        return subprocess.Popen(
            command,
            env=cloud.environment(),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )


def ask_to_halt(process: subprocess.Popen[bytes]) -> None:
    """Ask a machine to shut down. Ask repeatedly: an init that has just started ignores it.

    The guest's init is asked, not systemd-nspawn, which cuts the power when it is asked twice.
    """
    with contextlib.suppress(ProcessLookupError, FileNotFoundError):
        if pids := children(process):
            for pid in pids:
                os.kill(pid, signal.SIGRTMIN + 3)  # systemd: halt
        else:
            process.terminate()


def children(process: subprocess.Popen[bytes]) -> list[int]:
    path = Path(f"/proc/{process.pid}/task/{process.pid}/children")
    return [int(pid) for pid in path.read_text().split()]


def guest_init(process: subprocess.Popen[bytes]) -> int | None:
    """Return the id of the process that is the guest's init; None = there is none yet."""
    with contextlib.suppress(FileNotFoundError):
        if pids := children(process):
            return pids[0]
    return None
