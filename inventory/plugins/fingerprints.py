"""Lookup plugin `fingerprints`: what the install part of each role is made from."""

from __future__ import annotations

DOCUMENTATION = r"""
name: fingerprints
short_description: What the install part of each role is made from
description:
  - Returns a dictionary, role to fingerprint. It changes with each file of the role, with the
    value of each variable that the entry point C(install) of its argument specification names,
    and with O(inputs), so a machine that was installed from the same fingerprint needs no second
    look.
options:
  _terms:
    description: Names of roles.
    required: true
  inputs:
    description: What else the roles are installed from.
    type: raw
"""

EXAMPLES = r"""
wanted: "{{ lookup('fingerprints', 'redis', 'superset', inputs=lookup('wheel')) }}"
"""

RETURN = r"""
_raw:
  description: The dictionary.
  type: list
  elements: dict
"""

import hashlib
import json
from pathlib import Path
from typing import Any

from ansible.errors import AnsibleLookupError
from ansible.plugins.lookup import LookupBase
from ansible.utils.path import unfrackpath


def install_inputs(specs: dict[str, Any]) -> list[str]:
    """Return the variables that the install part of a role reads, by its argument specification."""
    return sorted(specs.get("argument_specs", {}).get("install", {}).get("options", {}))


def fingerprint(role: Path, inputs: Any) -> str:
    """Return what changes with a file of the role, and with its inputs."""
    digest = hashlib.sha1(json.dumps(inputs, sort_keys=True).encode(), usedforsecurity=False)
    for path in sorted(role.rglob("*")):
        if path.is_file() and "__pycache__" not in path.parts:
            digest.update(f"{path.relative_to(role)}\0".encode() + path.read_bytes() + b"\0")
    return digest.hexdigest()


class LookupModule(LookupBase):  # type: ignore[misc]
    """The plugin."""

    def run(
        self, terms: list[str], variables: dict[str, Any] | None = None, **kwargs: Any
    ) -> list[dict[str, str]]:
        """Return the fingerprint of each role."""
        self.set_options(var_options=variables, direct=kwargs)
        others = self.get_option("inputs")
        found = {role: self.find(role) for role in terms}
        return [
            {
                role: fingerprint(path, [self.values(path, variables or {}), others])
                for role, path in found.items()
            }
        ]

    def values(self, role: Path, variables: dict[str, Any]) -> dict[str, Any]:
        """Return the inputs of a role's install part, by name, as they are for this host."""
        names = install_inputs(self.load(role / "meta" / "argument_specs.yml"))
        if not names:
            return {}
        known = {**self.load(role / "defaults" / "main.yml"), **variables}
        wanted = {name: known[name] for name in names if name in known}
        values: dict[str, Any] = self._templar.copy_with_new_env(
            available_variables=known
        ).template(wanted)
        return values

    def load(self, path: Path) -> dict[str, Any]:
        """Return what a file of a role says; empty where there is none."""
        if not path.exists():
            return {}
        said: dict[str, Any] = self._loader.load_from_file(str(path), trusted_as_template=True)
        return said or {}

    @staticmethod
    def find(role: str) -> Path:
        """Return the directory of a role. Raises AnsibleLookupError when there is none."""
        from ansible import constants as C

        for directory in C.DEFAULT_ROLES_PATH:
            path = Path(unfrackpath(directory)) / role
            if path.is_dir():
                return path
        raise AnsibleLookupError(f"no role {role} in {', '.join(C.DEFAULT_ROLES_PATH)}")
