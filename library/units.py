#!/usr/bin/python
"""Bring systemd units into their state, and tell which are older than their configuration."""

from __future__ import annotations

DOCUMENTATION = r"""
module: units
short_description: Bring systemd units into their state, and tell which are older than their files
description:
  - Enables and starts units, or disables and stops them, all in one step.
  - Refuses to start one whose TCP port is held by something else, and names the holder.
  - Tells which running units started before their configuration was written. A handler that an
    earlier run owed, or one that failed, is so made up for.
options:
  units:
    description: The units, in the order in which they are started.
    type: list
    elements: dict
    required: true
    suboptions:
      name:
        description: Name of the unit, with or without C(.service).
        type: str
        required: true
      replaces:
        description:
          - The name that it had before. A unit of that name is stopped, disabled and removed
            before this one is started, so that never two of them run.
        type: str
      enabled:
        description: Whether it starts at boot. Without it this is left as it is.
        type: bool
      running:
        description: Whether it runs.
        type: bool
        default: true
      ports:
        description: TCP ports that it listens on.
        type: list
        elements: int
        default: []
      files:
        description:
          - What it reads when it starts. Of a directory its direct entries count too; its unit
            file and the drop-ins of that count by themselves.
        type: list
        elements: path
        default: []
author:
  - The superset-fleet project
"""

EXAMPLES = r"""
- name: Enable and start superset-web
  units:
    units:
      - name: superset-web
        enabled: true
        ports: [8088]
        files: [/etc/superset, /opt/superset/venv]
  register: web
  notify: Restart superset-web # when: "'superset-web' in web.older"
"""

RETURN = r"""
older:
  description: Running units that started before their configuration was written.
  returned: success
  type: list
  elements: str
  sample: [superset-web]
"""

import os
import re
import time
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ansible.module_utils.basic import AnsibleModule

PROPERTIES = (
    "ActiveState",
    "DropInPaths",
    "FragmentPath",
    "InactiveExitTimestampMonotonic",
    "NeedDaemonReload",
    "UnitFileState",
)


@dataclass(frozen=True)
class Listener:
    """A process that listens on a TCP port; unit is the systemd unit that it runs in, or ''."""

    port: int
    process: str
    pid: int
    unit: str


@dataclass(frozen=True)
class Unit:
    """What a unit is, or is to be; enabled is None where that is nobody's matter."""

    enabled: bool | None
    running: bool


def full(name: str) -> str:
    """Return the name of a unit with its suffix."""
    return name if re.search(r"\.(service|socket|timer)$", name) else f"{name}.service"


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


def listeners(module: AnsibleModule) -> list[Listener]:
    """Return the processes that listen on TCP ports of this machine."""
    _, table, _ = module.run_command(["ss", "-Hltnp"], check_rc=True)
    found = []
    for port, process, pid in parse(table):
        cgroup = Path(f"/proc/{pid}/cgroup")
        found.append(
            Listener(port, process, pid, unit_of(cgroup.read_text()) if cgroup.exists() else "")
        )
    return found


def strangers(
    found: Iterable[Listener], units: Mapping[str, list[int]], replaced: Collection[str] = ()
) -> list[str]:
    """Return a sentence for each process that has a port which is meant for another unit.

    Units that are replaced have stopped before it is needed.
    """
    owners = {port: unit for unit, ports in units.items() for port in ports}
    return [
        f"port {one.port} is needed by {owners[one.port]}, but process {one.process}"
        f" (pid {one.pid}{', ' + one.unit if one.unit else ''}) listens on it:"
        " stop that process, or give the role another port"
        for one in found
        if one.port in owners and one.unit not in {owners[one.port], *replaced}
    ]


def show(module: AnsibleModule, names: list[str]) -> dict[str, dict[str, str]]:
    """Return what systemd knows of units, by name."""
    command = ["systemctl", "show", f"--property={','.join(PROPERTIES)}", "--", *names]
    _, said, _ = module.run_command(command, check_rc=True)
    parts = [part.splitlines() for part in said.strip("\n").split("\n\n")]
    return {
        name: dict(line.split("=", 1) for line in part)
        for name, part in zip(names, parts, strict=True)
    }


def state(known: Mapping[str, str]) -> Unit:
    """Return the state of a unit by what systemd says of it."""
    return Unit(
        known["UnitFileState"].startswith("enabled"),
        known["ActiveState"] in ("active", "activating", "reloading"),
    )


def plan(current: Mapping[str, Unit], wanted: Mapping[str, Unit]) -> list[tuple[str, str]]:
    """Return the verbs of systemctl, each with its unit, that lead from one to the other."""
    steps = []
    for name, unit in wanted.items():
        if unit.enabled is not None and unit.enabled != current[name].enabled:
            steps.append(("enable" if unit.enabled else "disable", name))
        if unit.running != current[name].running:
            steps.append(("start" if unit.running else "stop", name))
    return steps


def remove(module: AnsibleModule, name: str, path: str) -> None:
    """Stop and disable a unit, and remove its file."""
    done, _, said = module.run_command(["systemctl", "disable", "--now", "--", name])
    if done:
        module.fail_json(msg=f"stop {name}: {said.strip()}; see journalctl --unit {name} there")
    Path(path).unlink()


def entries(path: Path) -> list[Path]:
    """Return a path and, of a directory, what lies in it."""
    return [path, *(path.iterdir() if path.is_dir() else [])]


def newest(paths: Iterable[Path]) -> float:
    """Return when the newest of some files was written, in seconds since 1970."""
    return max(os.lstat(entry).st_mtime for path in paths for entry in entries(path))


def started_at(known: Mapping[str, str]) -> float:
    """Return when a unit that runs began to start, in seconds since 1970 by the clock of now.

    systemd gives microseconds of the monotonic clock, so a step of the clock in between, as when a
    machine boots, makes no unit older or younger.
    """
    age = time.monotonic() - int(known["InactiveExitTimestampMonotonic"]) / 1e6
    return time.time() - age


def is_older(known: Mapping[str, str], files: Iterable[str]) -> bool:
    """Return whether a unit that runs started before what it reads was written. Raises OSError."""
    of_systemd = [known["FragmentPath"], *known["DropInPaths"].split()]
    return newest(map(Path, [*files, *of_systemd])) > started_at(known)


def main() -> None:
    """Run the module."""
    options = {
        "name": {"type": "str", "required": True},
        "replaces": {"type": "str"},
        "enabled": {"type": "bool"},
        "running": {"type": "bool", "default": True},
        "ports": {"type": "list", "elements": "int", "default": []},
        "files": {"type": "list", "elements": "path", "default": []},
    }
    units = {"type": "list", "elements": "dict", "required": True, "options": options}
    module = AnsibleModule(argument_spec={"units": units}, supports_check_mode=True)
    asked: dict[str, dict[str, Any]] = {full(unit["name"]): unit for unit in module.params["units"]}
    former = [full(unit["replaces"]) for unit in asked.values() if unit["replaces"]]
    known = show(module, [*asked, *former])
    former = [name for name in former if known[name]["FragmentPath"]]
    if any(unit["ports"] for unit in asked.values()):
        ports = {name: unit["ports"] for name, unit in asked.items()}
        if found := strangers(listeners(module), ports, former):
            module.fail_json(msg="; ".join(found))
    current = {name: state(known[name]) for name in [*asked, *former]}
    wanted = {name: Unit(unit["enabled"], unit["running"]) for name, unit in asked.items()}
    steps = plan(current, wanted)
    if not module.check_mode:
        for name in former:
            remove(module, name, known[name]["FragmentPath"])
        if former or any(
            known[name]["NeedDaemonReload"] == "yes"
            or (wanted[name].running and not known[name]["FragmentPath"])
            for name in asked
        ):
            module.run_command(["systemctl", "daemon-reload"], check_rc=True)
            known = show(module, list(asked))
        for verb, name in steps:
            done, _, said = module.run_command(["systemctl", verb, "--", name])
            if done:
                module.fail_json(
                    msg=f"{verb} {name}: {said.strip()}; see journalctl --unit {name} there"
                )
        if steps:
            now = {name: state(each) for name, each in show(module, list(asked)).items()}
            if left := plan(now, wanted):
                module.fail_json(
                    msg="; ".join(
                        f"{verb} {name}: done, but it is not so; see journalctl --unit {name} there"
                        for verb, name in left
                    )
                )
    older = []
    for name, unit in asked.items():
        if not (unit["files"] and unit["running"] and current[name].running):
            continue
        try:
            if is_older(known[name], unit["files"]):
                older.append(unit["name"])
        except OSError as error:
            module.fail_json(msg=f"compare {name} with what it reads: {error}")
    module.exit_json(
        changed=bool(former or steps or older),
        older=older,
        diff={
            "before": {name: vars(unit) for name, unit in current.items()},
            "after": {name: vars(unit) for name, unit in wanted.items()},
        },
    )


if __name__ == "__main__":
    main()
