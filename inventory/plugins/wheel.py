"""Lookup plugin `wheel`: the package of the fleet, for its machines."""

from __future__ import annotations

DOCUMENTATION = r"""
name: wheel
short_description: The fleet's own package, as a wheel for its machines
description:
  - Returns the path of the wheel, C(dist/<fingerprint>/<name>.whl), and makes it where it is
    missing. The fingerprint is that of what machines run, so a change of what only the control
    machine runs makes no other wheel.
  - Several that ask at the same time wait for one of them to make it.
"""

EXAMPLES = r"""
path: "{{ lookup('wheel') }}"
fingerprint: "{{ lookup('wheel') | dirname | basename }}"
"""

RETURN = r"""
_raw:
  description: The path.
  type: list
  elements: str
"""

import fcntl
import hashlib
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from ansible.errors import AnsibleLookupError
from ansible.plugins.lookup import LookupBase

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = ROOT / "src" / "superset_fleet"
CONTROL = PACKAGE / "control"  # runs on the control machine alone


def sources() -> list[Path]:
    """Return the files of the package that machines of the fleet run, in order."""
    return sorted(
        path
        for path in PACKAGE.rglob("*")
        if path.is_file() and "__pycache__" not in path.parts and CONTROL not in path.parents
    )


def fingerprint() -> str:
    """Return what tells one version of these files from another."""
    digest = hashlib.sha1(usedforsecurity=False)
    for path in sources():
        digest.update(f"{path.relative_to(PACKAGE)}\0".encode() + path.read_bytes() + b"\0")
    return digest.hexdigest()


def build(target: Path) -> None:
    """Make the wheel in a directory that is there only when the wheel is complete."""
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=".") as place:
        command = [sys.executable, "-m", "hatchling", "build", "--target=wheel", "-d", place]
        done = subprocess.run(
            command, cwd=ROOT, stdin=subprocess.DEVNULL, capture_output=True, text=True
        )
        if done.returncode:
            raise AnsibleLookupError(f"make the wheel of {ROOT}: {done.stderr or done.stdout}")
        Path(place).chmod(0o755)
        shutil.copytree(place, target)


class LookupModule(LookupBase):  # type: ignore[misc]
    """The plugin."""

    def run(
        self, terms: list[str], variables: dict[str, Any] | None = None, **kwargs: Any
    ) -> list[str]:
        """Return the wheel's path."""
        target = ROOT / "dist" / fingerprint()
        if not any(target.glob("*.whl")):
            target.parent.mkdir(exist_ok=True)
            with (target.parent / ".lock").open("w") as lock:
                fcntl.flock(lock, fcntl.LOCK_EX)
                if not any(target.glob("*.whl")):
                    shutil.rmtree(target, ignore_errors=True)
                    build(target)
        return [str(next(target.glob("*.whl")))]
