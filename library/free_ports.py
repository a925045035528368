#!/usr/bin/python
"""Refuse to go on where a port that a unit needs is taken by something else."""

from __future__ import annotations

DOCUMENTATION = r"""
module: free_ports
short_description: Refuse to go on where a port that a unit needs is taken by something else
description:
  - Fails, naming port, process and remedy, when a TCP port is listened on by a process that does
    not belong to the systemd unit that is meant to have it.
  - Changes nothing, so it runs in check mode too.
options:
  units:
    description: Name of a unit, with its suffix, to the TCP ports that it listens on.
    type: dict
    required: true
author:
  - The superset-fleet project
"""

EXAMPLES = r"""
- name: Refuse a taken port
  free_ports:
    units:
      superset-web.service: [8088]
"""

RETURN = r"""
listeners:
  description: Unit to the ports of it that are listened on already, by that unit.
  returned: success
  type: dict
  sample: {"superset-web.service": [8088]}
"""

import re
from dataclasses import dataclass
from pathlib import Path

from ansible.module_utils.basic import AnsibleModule


@dataclass(frozen=True)
class Listener:
    """A process that listens on a TCP port; unit is the systemd unit that it runs in, or ''."""

    port: int
    process: str
    pid: int
    unit: str


def unit_of(cgroup: str) -> str:
    """Return the innermost service or scope in the text of /proc/PID/cgroup, or ''."""
    found = re.findall(r"/([^/\n]+\.(?:service|scope))", cgroup)
    return found[-1] if found else ""


def parse(table: str) -> list[tuple[int, str, int]]:
    """Return port, process and pid for each process in the output of `ss -Hltnp`."""
    found = []
    for line in table.splitlines():
        port = int(line.split()[3].rsplit(":", 1)[1])
        for process, pid in re.findall(r'\("([^"]+)",pid=(\d+)', line):
            found.append((port, process, int(pid)))
    return found


def read(module: AnsibleModule) -> list[Listener]:
    """Return the processes that listen on TCP ports of this machine."""
    _, table, _ = module.run_command(["ss", "-Hltnp"], check_rc=True)
    listeners = []
    for port, process, pid in parse(table):
        cgroup = Path(f"/proc/{pid}/cgroup")
        listeners.append(
            Listener(port, process, pid, unit_of(cgroup.read_text()) if cgroup.exists() else "")
        )
    return listeners


def strangers(listeners: list[Listener], units: dict[str, list[int]]) -> list[str]:
    """Return a sentence for each process that has a port which is meant for another unit."""
    owners = {port: unit for unit, ports in units.items() for port in ports}
    return [
        f"port {found.port} is needed by {owners[found.port]}, but process {found.process}"
        f" (pid {found.pid}{', ' + found.unit if found.unit else ''}) listens on it:"
        " stop that process, or give the role another port"
        for found in listeners
        if found.port in owners and found.unit != owners[found.port]
    ]


def main() -> None:
    """Run the module."""
    module = AnsibleModule(
        argument_spec={"units": {"type": "dict", "required": True}}, supports_check_mode=True
    )
    units = {unit: [int(port) for port in ports] for unit, ports in module.params["units"].items()}
    listeners = read(module)
    if found := strangers(listeners, units):
        module.fail_json(msg="; ".join(found))
    module.exit_json(
        changed=False,
        listeners={
            unit: sorted({listener.port for listener in listeners if listener.unit == unit})
            for unit in units
        },
    )


if __name__ == "__main__":
    main()
