"""The fleet's machines, and what can happen to them: by ssh, as root of the machine."""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from superset_fleet.control.ask import template
from superset_fleet.roles import FLEET, ROLES

VARIABLES = "q('ansible.builtin.varnames', '^(fleet|haproxy|postgres|redis|superset|warehouse)_')"
# Connections stay open for this process: an order takes milliseconds then.
SOCKETS = Path(tempfile.mkdtemp(prefix="ssh-"))


class MachineFailed(Exception):
    """A command on a machine failed; the message is what it wrote."""


@dataclass(frozen=True)
class Machine:
    """A machine of the fleet; `name` is its inventory's, `host` the one it has itself."""

    name: str
    group: str
    address: str
    host: str
    ssh: tuple[str, ...]

    def run(self, script: str, check: bool = True, timeout: float = 180) -> str:
        """Run a script of bash as root and return what it wrote.

        It comes by standard input, so what is secret in it is not on a command line.
        Raises MachineFailed where it fails, unless told not to check.
        """
        command = [*self.ssh, "sudo bash -e -s"]
        done = subprocess.run(
            command, input=script, capture_output=True, text=True, timeout=timeout
        )
        if check and done.returncode:
            raise MachineFailed(f"{self.name} ({self.group}): {script}: {done.stderr.strip()}")
        return done.stdout.strip()

    def signal(self, unit: str, name: str, whom: str = "all") -> None:
        """Send a signal to all processes of a unit, or to its main one."""
        self.run(f"systemctl kill --signal {name} --kill-whom {whom} {unit}")

    @contextmanager
    def paused(self, unit: str, whom: str = "all") -> Iterator[None]:
        """Let a unit's processes stand still."""
        self.signal(unit, "STOP", whom)
        try:
            yield
        finally:
            self.signal(unit, "CONT", whom)

    @contextmanager
    def cut_off(self, address: str, port: int) -> Iterator[None]:
        """Lose every packet to and from an address' port, as where a network is torn."""
        self.run(
            f"""nft -f - <<'RULES'
            table ip torn {{
              chain out {{
                type filter hook output priority 0;
                ip daddr {address} tcp dport {port} drop;
              }}
              chain in {{
                type filter hook input priority 0;
                ip saddr {address} tcp sport {port} drop;
              }}
            }}
RULES"""
        )
        try:
            yield
        finally:
            self.run("nft delete table ip torn")

    @contextmanager
    def unreachable(self, port: int) -> Iterator[None]:
        """Lose every packet to a port of this machine."""
        self.run(
            f"""nft -f - <<'RULES'
            table ip closed {{
              chain in {{
                type filter hook input priority 0;
                tcp dport {port} drop;
              }}
            }}
RULES"""
        )
        try:
            yield
        finally:
            self.run("nft delete table ip closed")

    @contextmanager
    def without(self, unit: str) -> Iterator[None]:
        """Stop a unit, and start it again in the end."""
        self.run(f"systemctl stop {unit}")
        try:
            yield
        finally:
            self.run(f"systemctl start {unit}")

    @contextmanager
    def clock(self, offset: str, *units: str) -> Iterator[None]:
        """Let units see another time, e.g. `+1h`; their stopwatches go on as they should.

        The machines share one kernel and its clock, so the time is changed on the way from there.
        """
        self.run(
            "dpkg-query --show libfaketime >/dev/null 2>&1 || {"
            " apt-get update -qq && apt-get install -y -qq libfaketime; } >/dev/null"
        )
        for unit in units:
            self.run(
                f"""mkdir -p /run/systemd/system/{unit}.service.d
                cat > /run/systemd/system/{unit}.service.d/clock.conf <<'DROP_IN'
[Service]
Environment=LD_PRELOAD=/usr/lib/x86_64-linux-gnu/faketime/libfaketimeMT.so.1
Environment=FAKETIME={offset} FAKETIME_DONT_FAKE_MONOTONIC=1 FAKETIME_NO_CACHE=0
DROP_IN"""
            )
        restart = f"systemctl daemon-reload; systemctl restart {' '.join(units)}"
        try:
            self.run(restart)
            for unit in units:
                # What a unit's sandbox kept from it would be no other time at all.
                self.run(f"grep -q faketime /proc/$(systemctl show -P MainPID {unit})/maps")
            yield
        finally:
            drop_ins = " ".join(f"/run/systemd/system/{unit}.service.d" for unit in units)
            self.run(f"rm -r {drop_ins}; {restart}")

    def cut_power(self) -> float:
        """End the machine as a power cut does, and return when, in seconds since 1970.

        Only in the local cloud, whose host this is.
        """
        wanted = f"--machine={self.name}".encode()
        for process in Path("/proc").glob("[0-9]*"):
            try:
                words = (process / "cmdline").read_bytes().split(b"\0")
            except OSError:
                continue  # it ended while we looked
            if words[0] == b"systemd-nspawn" and wanted in words:
                os.kill(int(process.name), signal.SIGKILL)
                return time.time()
        raise MachineFailed(f"{self.name} is no machine of this host")


def find(pattern: str = FLEET) -> list[Machine]:
    """Return the machines of an inventory's pattern that can take work now."""
    names = ["ansible_host", "ansible_user", "ansible_ssh_private_key_file"]
    names.append("ansible_ssh_common_args")
    given = ", ".join(f"'{name}': {name} | default('')" for name in names)
    machines = []
    for name, said in template(pattern, f"{{{given}, 'groups': group_names}}").items():
        address, user, key, options = (said[each] for each in names)
        ssh = ["ssh", *shlex.split(options), "-o", "ControlMaster=auto", "-o", "ControlPersist=300"]
        ssh += ["-o", f"ControlPath={SOCKETS}/%C"]
        ssh += ["-i", key] if key else []
        ssh += ["-l", user] if user else []
        command = (*ssh, address)
        group = next(group for group in ROLES if group in said["groups"])
        machines.append(Machine(name, group, address, hostname(command), command))
    return machines


def hostname(ssh: tuple[str, ...]) -> str:
    """Return the name that a machine has itself."""
    # ssh would leave our standard input non-blocking for a moment, and Ansible refuses that.
    done = subprocess.run(
        [*ssh, "hostname"],
        check=True,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
    )
    return done.stdout.strip()


def facts() -> dict[str, Any]:
    """Return the fleet's variables as a play on the load balancer sees them."""
    values = f"q('ansible.builtin.vars', *{VARIABLES})"
    seen = template("haproxy[0]", f"dict({VARIABLES} | zip({values}))")
    return dict(next(iter(seen.values())))
