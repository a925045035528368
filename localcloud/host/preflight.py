"""What a local cloud needs of the host, checked before anything is changed."""

import os
import shutil
import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from localcloud.cloud import Cloud, CloudError
from localcloud.host import network
from localcloud.host.base import KEYRING
from localcloud.host.system import run

GIB = 1024**3
MEMORY_GIB = 6
DISK_GIB = 8
PACKAGES = {  # command → the Debian package that has it
    "systemd-nspawn": "systemd-container",
    "mmdebstrap": "mmdebstrap",
    "nft": "nftables",
    "ip": "iproute2",
    "nsenter": "util-linux",
    "unshare": "util-linux",
    "ssh-keygen": "openssh-client",
}


@dataclass(frozen=True)
class Problem:
    """Something that is missing, and the command that repairs it."""

    what: str
    remedy: str


def message(problems: Sequence[Problem]) -> str:
    """Return the text that says all problems at once, each with its remedy."""
    lines = ["The local cloud cannot run on this machine yet:"]
    for problem in problems:
        lines += [f"  - {problem.what}", f"      {problem.remedy}"]
    return "\n".join(lines)


def missing_commands(found: Iterable[str]) -> list[Problem]:
    have = set(found)
    return [
        Problem(f"the command {command} is missing", f"apt-get install {package}")
        for command, package in PACKAGES.items()
        if command not in have
    ]


def short(what: str, available: int, needed_gib: int, remedy: str) -> list[Problem]:
    """Return a problem if less than `needed_gib` GiB of `what` is free; `available` is in bytes."""
    if available >= needed_gib * GIB:
        return []
    have = available / GIB
    return [Problem(f"{what}: {have:.1f} GiB free, {needed_gib} GiB are needed", remedy)]


def check(cloud: Cloud) -> list[Problem]:
    """Return everything that keeps the cloud from running here."""
    if problems := root():
        return problems
    if not Path("/etc/debian_version").exists():
        problems.append(Problem("this is not a Debian-like Linux", "use a Debian 12 machine"))
    problems += missing_commands(command for command in PACKAGES if shutil.which(command))
    if not KEYRING.exists():
        remedy = "apt-get install debian-archive-keyring"
        problems.append(Problem("the keys of Debian's archive are missing", remedy))
    state = next(path for path in [cloud.state, *cloud.state.parents] if path.exists())
    free = shutil.disk_usage(state).free
    problems += short(f"disk below {state}", free, DISK_GIB, "free some space there")
    problems += short("memory", memory_available(), MEMORY_GIB, "stop other programs or add memory")
    if not problems:  # these need the commands
        problems += overlay(state) + block(cloud)
    return problems


def root() -> list[Problem]:
    if os.geteuid() == 0:
        return []
    return [Problem("root is needed, for machines, mounts and links", "run the command with sudo")]


def memory_available() -> int:
    for line in Path("/proc/meminfo").read_text().splitlines():
        name, _, rest = line.partition(":")
        if name == "MemAvailable":
            return int(rest.split()[0]) * 1024
    return 0


def overlay(directory: Path) -> list[Problem]:
    """Try to mount one, in a mount namespace that is gone when the command exits."""
    with tempfile.TemporaryDirectory(dir=directory, prefix=".overlay-") as scratch:
        for part in ("lower", "upper", "work", "root"):
            Path(scratch, part).mkdir()
        options = "lowerdir=lower,upperdir=upper,workdir=work"
        mount = f"cd '{scratch}' && mount -t overlay overlay -o {options} root"
        try:
            run("unshare", "--mount", "sh", "-c", mount)
        except CloudError as error:
            remedy = "modprobe overlay; and keep the checkout on ext4, xfs or btrfs"
            return [Problem(f"overlay file systems do not work below {directory}: {error}", remedy)]
    return []


def block(cloud: Cloud) -> list[Problem]:
    try:
        network.choose_block(cloud.tag, network.routed())
    except CloudError as error:
        return [Problem(str(error), "python -m localcloud down, in a checkout that is not used")]
    return []
