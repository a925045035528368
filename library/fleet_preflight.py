#!/usr/bin/python
"""Refuse variables with which a fleet would not work, before any machine is touched."""

from __future__ import annotations

DOCUMENTATION = r"""
module: fleet_preflight
short_description: Refuse variables with which a fleet would not work
description:
  - Checks the timeouts against one another, the largest fleet's database connections against what
    PostgreSQL takes, that no group and no secret is missing, and that no variable is misspelt.
  - Fails with one message that holds everything it found, each with its remedy.
  - Changes nothing and reaches no machine. It runs on the control machine, with the Python that
    runs Ansible.
options:
  project:
    description:
      - Directory of the checkout.
      - What its roles, playbooks and C(inventory/group_vars) read are the variables that exist.
    type: path
    required: true
  settings:
    description:
      - The timeouts in seconds and the sizes of the connection pools, by variable.
      - For one that is left out, the default of its role counts. Only a play can evaluate a
        template, so a setting whose default is one belongs into C(inventory/group_vars/all).
    type: dict
    required: true
  group_sizes:
    description: Number of machines in each group of the inventory.
    type: dict
    required: true
  group_limits:
    description:
      - Groups that scale, as C(fleet_groups) has them. Leave it out for machines that no cloud
        makes; then O(group_sizes) are the limits.
    type: dict
    default: {}
  queues:
    description: What workers take tasks from whose group in O(group_limits) does not say.
    type: list
    elements: str
    required: true
  machine_queues:
    description: What each worker machine takes tasks from, without O(group_limits).
    type: dict
    default: {}
  no_worker_policy:
    description: What becomes of a query for which no worker is there, C(fail) or C(wake).
    type: str
    required: true
  browser:
    description: Whether worker machines have Chromium.
    type: bool
    required: true
  postgres_address:
    description: Address of the metadata database. With it, group C(postgres) may be empty.
    type: str
    default: ""
  names:
    description:
      - Names of all variables that the control machine's own play sees.
      - A needed secret that is not among them is missing.
    type: list
    elements: str
    required: true
  inventories:
    description:
      - Directories whose C(group_vars) and C(host_vars) are read for further names, which the
        control machine's own play does not see. Encrypted files are not read.
    type: list
    elements: path
    default: []
  empty_secrets:
    description: Those of the names that are secrets, must have a value, and have none.
    type: list
    elements: str
    default: []
author:
  - The superset-fleet project
"""

EXAMPLES = r"""
- name: Check the fleet's variables
  fleet_preflight:
    project: "{{ playbook_dir }}/.."
    settings: {haproxy_server_timeout_seconds: 150, superset_web_timeout_seconds: 120}
    group_sizes: {haproxy: 1, superset_web: 2}
    queues: [sql_lab, charts, warmup, default]
    no_worker_policy: fail
    browser: false
    names: "{{ q('ansible.builtin.varnames', '.') }}"
"""

RETURN = r"""# """

import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from ansible.module_utils.basic import AnsibleModule, missing_required_lib
from ansible.module_utils.superset_fleet.control import preflight

try:
    import yaml
except ImportError:
    HAS_YAML = False
else:
    HAS_YAML = True
    # Only names are read here: what !vault and the like stand for does not matter.
    yaml.SafeLoader.add_multi_constructor("!", lambda *_: None)

# What defines variables by naming them at the start of a line, and what reads them.
GROUP_VARS = "inventory/group_vars"
READERS = (GROUP_VARS, "inventory/plugins", "playbooks", "roles", "src")
OTHER_PREFIXES = ("canary_", "fleet_", "vault_", *preflight.FORMER_PREFIXES)


def load(path: Path) -> dict[str, Any]:
    """Return a YAML file that holds a mapping; empty for a file that ansible-vault encrypted."""
    text = path.read_text()
    return {} if text.startswith("$ANSIBLE_VAULT") else yaml.safe_load(text) or {}


def inputs(project: Path) -> Iterator[str]:
    """Yield every input of every role."""
    for path in project.glob("roles/*/meta/argument_specs.yml"):
        for spec in load(path)["argument_specs"].values():
            yield from spec["options"]


def defaults(project: Path) -> dict[str, Any]:
    """Return the defaults of every role, as they are written."""
    files = sorted(project.glob("roles/*/defaults/main.yml"))
    return {name: value for path in files for name, value in load(path).items()}


def read_names(paths: Iterable[Path]) -> set[str]:
    """Return every word that files use, apart from the keys that they define at the top."""
    words = set()
    for path in paths:
        text = re.sub(r"(^|\s)#.*", "", path.read_text())
        words.update(re.findall(r"\b[a-z][a-z0-9_]+\b", re.sub(r"(?m)^\w+:", "", text)))
    return words


def source_files(project: Path) -> Iterator[Path]:
    """Yield the files of the checkout that can read a variable."""
    for tree in READERS:
        for path in (project / tree).rglob("*"):
            if path.suffix in {".j2", ".py", ".yml"}:
                yield path


def defined_names(directories: Iterable[Path]) -> Iterator[str]:
    """Yield the variables that group_vars and host_vars of some directories define."""
    for directory in directories:
        for kind in ("group_vars", "host_vars"):
            for path in (directory / kind).rglob("*.yml"):
                yield from load(path)


def findings(options: dict[str, Any]) -> list[str]:
    """Return what is wrong with the fleet's variables."""
    project = Path(options["project"])
    sizes, limits = options["group_sizes"], options["group_limits"]
    cloud = bool(limits)
    known = {*inputs(project), *read_names(source_files(project))}
    names = {*options["names"], *defined_names(map(Path, options["inventories"]))}
    needed = read_names((project / GROUP_VARS / "all").rglob("*.yml"))
    prefixes = [f"{path.name}_" for path in (project / "roles").iterdir()]
    settings = {**defaults(project), **options["settings"]}
    machines = {**sizes, **preflight.most_machines(limits)}
    taken = preflight.takers(limits, options["queues"]) if cloud else options["machine_queues"]
    slots = int(str(settings.get("celery_worker_concurrency", 1)))
    return [
        *preflight.empty_groups(
            sizes, options["postgres_address"], cloud, preflight.idle_roles(limits)
        ),
        *preflight.faulty_groups(limits),
        *preflight.misplaced_queues(taken, options["browser"], slots),
        *preflight.never_woken(limits, options["queues"], options["no_worker_policy"]),
        *preflight.missing_secrets(
            {name for name in needed if name.startswith("vault_")},
            options["names"],
            options["empty_secrets"],
            cloud,
        ),
        *preflight.violations(settings, machines),
        *preflight.former_values(settings),
        *preflight.unknown_variables(names, known, (*prefixes, *OTHER_PREFIXES)),
    ]


def main() -> None:
    """Run the module."""
    module = AnsibleModule(
        argument_spec={
            "project": {"type": "path", "required": True},
            "settings": {"type": "dict", "required": True},
            "group_sizes": {"type": "dict", "required": True},
            "group_limits": {"type": "dict", "default": {}},
            "queues": {"type": "list", "elements": "str", "required": True},
            "machine_queues": {"type": "dict", "default": {}},
            "no_worker_policy": {"type": "str", "required": True},
            "browser": {"type": "bool", "required": True},
            "postgres_address": {"type": "str", "default": ""},
            "names": {"type": "list", "elements": "str", "required": True},
            "inventories": {"type": "list", "elements": "path", "default": []},
            "empty_secrets": {"type": "list", "elements": "str", "default": [], "no_log": False},
        },
        supports_check_mode=True,
    )
    if not HAS_YAML:
        module.fail_json(msg=missing_required_lib("PyYAML"))
    found = findings(module.params)
    if found:
        listed = "".join(f"\n  - {finding}" for finding in found)
        module.fail_json(msg=f"the fleet is not ready:{listed}")
    module.exit_json(changed=False)


if __name__ == "__main__":
    main()
