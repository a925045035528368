#!/usr/bin/python
"""Tell what a machine is and carries, and why the fleet cannot run on it where that is so."""

from __future__ import annotations

DOCUMENTATION = r"""
module: machine
short_description: Tell what a machine is and carries, and whether the fleet can run on it
description:
  - Reads at once what plays want to know of a machine.
  - Says why, with the remedy, the fleet cannot run on one that is no Debian 12 or has a full disk.
  - Changes nothing, so it runs in check mode too.
options:
  free_disk_mb:
    description: Free space on the root file system below which the machine is refused.
    type: int
    required: true
  record:
    description: Where the machine keeps which roles were installed on it, and from what.
    type: path
    default: /etc/fleet/installed.json
author:
  - The superset-fleet project
"""

EXAMPLES = r"""
- name: Look at the machine
  machine:
    free_disk_mb: 2048
"""

RETURN = r"""
ansible_facts:
  description: What the machine is, C(fleet_machine).
  returned: success
  type: dict
  sample:
    fleet_machine:
      name: web-1
      memory_mb: 3800
      free_disk_mb: 9000
      installed: {superset: 0a1b2c}
      refusal: ""
"""

import json
import os
import platform
import socket
from pathlib import Path
from typing import Any

from ansible.module_utils.basic import AnsibleModule

SYSTEM = "Debian 12"


def installed(path: Path) -> dict[str, str]:
    """Return what each role was installed from, by the machine's record; without one: nothing."""
    try:
        record = json.loads(path.read_text())
    except (FileNotFoundError, ValueError):
        return {}
    return {str(role): str(source) for role, source in record.items()}


def read(path: Path) -> dict[str, Any]:
    """Return what this machine is."""
    system = platform.freedesktop_os_release()
    disk = os.statvfs("/")
    return {
        "name": socket.gethostname(),
        "system": f"{system.get('NAME', '').split()[0]} {system.get('VERSION_ID', '')}",
        "memory_mb": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 1048576,
        "free_disk_mb": disk.f_bavail * disk.f_frsize // 1048576,
        "installed": installed(path),
    }


def refusal(machine: dict[str, Any], free_disk_mb: int) -> str:
    """Return why the fleet cannot run on a machine, or ''."""
    if machine["system"] != SYSTEM:
        return (
            f"{machine['name']} runs {machine['system']}; the fleet runs on {SYSTEM} only."
            f" Give it a machine with {SYSTEM}."
        )
    if machine["free_disk_mb"] < free_disk_mb:
        return (
            f"{machine['name']} has {machine['free_disk_mb']} MB free on /, fewer than the"
            f" {free_disk_mb} MB of common_free_disk_mb; free some or enlarge the disk."
        )
    return ""


def main() -> None:
    """Run the module."""
    module = AnsibleModule(
        argument_spec={
            "free_disk_mb": {"type": "int", "required": True},
            "record": {"type": "path", "default": "/etc/fleet/installed.json"},
        },
        supports_check_mode=True,
    )
    machine = read(Path(module.params["record"]))
    machine["refusal"] = refusal(machine, module.params["free_disk_mb"])
    module.exit_json(changed=False, ansible_facts={"fleet_machine": machine})


if __name__ == "__main__":
    main()
