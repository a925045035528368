"""What the tests of the whole fleet share besides fixtures."""

from __future__ import annotations

import re
import shlex
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import requests

from superset_fleet.control.ask import ROOT
from tests.support.deployed.machines import Machine

Ask = Callable[..., requests.Response]
Play = Callable[..., subprocess.CompletedProcess[str]]
Query = Callable[[str], dict[str, Any]]
DEPLOYED_SECONDS = 600
# Options for a canary whose query does not come back.
BRIEF = ("--extra-vars", "canary_timeout_seconds=20")


@contextmanager
def replaced(machine: Machine, path: str, pattern: str, replacement: str) -> Iterator[None]:
    """Change what a pattern matches in a file of a machine; put the file back in the end."""
    change = shlex.quote(f"s|{pattern}|{replacement}|")
    machine.run(f"cp -a {path} {path}.before; sed -i -E {change} {path}")
    try:
        machine.run(f"! cmp -s {path} {path}.before")
        yield
    finally:
        machine.run(f"mv {path}.before {path}")


def banner(url: str, directory: Path) -> str:
    """Return what the login page tells of workers in a browser, after ten seconds of its time."""
    command = ["chromium", "--headless=new", "--no-sandbox", "--disable-gpu", "--dump-dom"]
    command += ["--ignore-certificate-errors", f"--user-data-dir={directory}"]
    command += ["--virtual-time-budget=10000", f"{url}/login/"]
    page = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True).stdout
    found = re.search(r'<div id="fleet-banner" role="alert"[^>]*>([^<]*)</div>', page)
    assert found, page
    return found[1]


class PlainFleet:
    """A fleet from a static inventory, whose first deployment begins at once, at low priority."""

    def __init__(self, inventory: Path) -> None:
        self.inventory, self._log = inventory, inventory.with_name("site.log")
        command = ["nice", "-n", "19", "ansible-playbook", "playbooks/site.yml"]
        with self._log.open("w") as log:
            self._process = subprocess.Popen(
                [*command, "--inventory", str(inventory)],
                cwd=ROOT,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
            )

    def __enter__(self) -> PlainFleet:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.terminate()
        self._process.wait(30)

    def deployed(self) -> tuple[int, str]:
        """Wait until it is; return the status of the deployment, and what it said."""
        return self._process.wait(DEPLOYED_SECONDS), self._log.read_text()
