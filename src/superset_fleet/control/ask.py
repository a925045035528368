"""Ansible's answers for the command line and the tests: one source of truth, the inventory."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[3]
NOBODY = "no machine matches {!r}: is the fleet up (./fleet up)?"


class AnsibleFailed(Exception):
    """Ansible could not do what was asked; the message is Ansible's own."""


def ask(*command: str, **environment: str) -> Any:
    """Run a program of Ansible's in the checkout, and return the JSON that it writes.

    Raises AnsibleFailed with what it says when it writes none.
    """
    # Ours may be non-blocking, by ssh or by who started us, and Ansible refuses that.
    done = subprocess.run(
        command,
        cwd=ROOT,
        env={**os.environ, "ANSIBLE_CONFIG": str(ROOT / "ansible.cfg"), **environment},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
    )
    try:
        return json.loads(done.stdout)
    except ValueError:
        raise AnsibleFailed((done.stderr or done.stdout).strip()) from None


def run_module(
    hosts: str,
    module: str,
    arguments: dict[str, Any],
    become: bool = False,
    python: str | None = None,
) -> dict[str, dict[str, Any]]:
    """Run a module on the hosts of a pattern and return its result for each host.

    The arguments are templated by Ansible, so a secret is passed as the name of its variable.
    `python` is the path of a Python whose packages the module needs; else it is the inventory's.

    Raises AnsibleFailed with the message of the first host that failed, or when no host matches.
    """
    ansible = str(Path(sys.executable).with_name("ansible"))
    command = [ansible, hosts, "--module-name", module, "--args", json.dumps(arguments)]
    command += ["--become"] if become else []
    command += ["--extra-vars", f"ansible_python_interpreter={python}"] if python else []
    plays = ask(
        *command,
        ANSIBLE_LOAD_CALLBACK_PLUGINS="true",
        ANSIBLE_STDOUT_CALLBACK="ansible.posix.json",
    )["plays"]
    results: dict[str, dict[str, Any]] = plays[0]["tasks"][0]["hosts"] if plays else {}
    if not results:
        raise AnsibleFailed(NOBODY.format(hosts))
    for host, result in results.items():
        if result.get("failed") or result.get("unreachable"):
            raise AnsibleFailed(f"{host}: {result.get('msg', result)}")
    return results


def variables(hosts: str, names: list[str]) -> dict[str, dict[str, Any]]:
    """Return the named variables, templated, as a play on each host of the pattern sees them."""
    return template(hosts, f"dict({names} | zip(q('ansible.builtin.vars', *{names})))")


def template(hosts: str, expression: str) -> dict[str, Any]:
    """Return the value of a Jinja expression on each host of the pattern. Raises AnsibleFailed."""
    module = "superset_fleet.control.templating"
    values: dict[str, Any] = ask(sys.executable, "-m", module, hosts, expression)
    if not values:
        raise AnsibleFailed(NOBODY.format(hosts))
    return values
