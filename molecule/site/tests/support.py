"""What the tests of the whole fleet share besides fixtures: their types, and faults to inject."""

import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from superset_fleet.ansible import run_module

Play = Callable[..., subprocess.CompletedProcess[str]]
Query = Callable[[str], dict[str, Any]]


@contextmanager
def stopped(hosts: str, unit: str) -> Iterator[None]:
    """Stop a unit of some machines, and start it again in the end."""
    module = "ansible.builtin.systemd_service"
    run_module(hosts, module, {"name": unit, "state": "stopped"}, become=True)
    try:
        yield
    finally:
        run_module(hosts, module, {"name": unit, "state": "started"}, become=True)


@contextmanager
def replaced(hosts: str, path: str, pattern: str, replacement: str) -> Iterator[None]:
    """Change what a pattern matches in a file of some machines; put the file back in the end."""
    copy = f"{path}.before"
    shell = "ansible.builtin.shell"
    run_module(hosts, shell, {"cmd": f"cp -a {path} {copy}"}, become=True)
    try:
        options = {"path": path, "regexp": pattern, "replace": replacement}
        run_module(hosts, "ansible.builtin.replace", options, become=True)
        yield
    finally:
        run_module(hosts, shell, {"cmd": f"mv {copy} {path}"}, become=True)
