"""The fleet of this checkout, in a local cloud on this machine: up and down."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

from rehearsal.steps import ROOT, Command, Failed, Step, duration, run

PACKAGES = ["systemd-container", "mmdebstrap", "nftables", "iproute2", "openssh-client"]
LOCALCLOUD = [sys.executable, "-m", "localcloud"]


def program(name: str) -> Path:
    """Return the path of a program of the environment."""
    return Path(sys.executable).with_name(name)


def playbook(name: str) -> Command:
    """Return the command that runs a playbook."""
    return Command(name, [program("ansible-playbook"), f"playbooks/{name}.yml"])


def up() -> None:
    """Make the local cloud and the fleet in it. Raises Failed."""
    local_machine("up")
    began = time.monotonic()
    try:
        run(
            [
                Step("Packages", [Command("packages", ["rehearsal/packages", *PACKAGES])]),
                Step("Local cloud", [Command("localcloud", [*LOCALCLOUD, "up"])]),
                Step("Network, machines and secrets", [playbook("provision")]),
                Step("Image; databases and brokers", [playbook("bake"), playbook("state")]),
                Step("Fleet", [playbook("site")]),
            ]
        )
    except Failed as failure:
        raise Failed(f"{failure}\nMend it and run ./fleet up again, it goes on there.") from None
    print(f"The fleet stands after {duration(time.monotonic() - began)}", flush=True)
    subprocess.run([program("fleet"), "access"], check=True)


def down(purge: bool) -> None:
    """Take the local cloud down. Raises Failed."""
    local_machine("down")
    if subprocess.call([*LOCALCLOUD, "down", *(["--purge"] if purge else [])], cwd=ROOT):
        raise Failed("the local cloud is not down")


def local_machine(command: str) -> None:
    """Raise Failed where there can be no local cloud."""
    if not Path("/etc/debian_version").exists():
        raise Failed(
            "the local cloud runs on Debian 12; elsewhere deploy to AWS or to plain VMs (README.md)"
        )
    if os.geteuid() != 0:
        raise Failed(f"the local cloud needs root; run: sudo ./fleet {command}")
