"""Lookup plugin `fingerprints`: what the install part of each role is made from."""

from __future__ import annotations

DOCUMENTATION = r"""
name: fingerprints
short_description: What the install part of each role is made from
description:
  - Returns a dictionary, role to fingerprint. It changes with each file of the role and with
    O(inputs), so a machine that was installed from the same fingerprint needs no second look.
options:
  _terms:
    description: Names of roles.
    required: true
  inputs:
    description: What else the roles are installed by, as variables.
    type: raw
"""

EXAMPLES = r"""
wanted: "{{ lookup('fingerprints', 'redis', inputs=superset_extra_packages) }}"
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
        return [{role: fingerprint(self.find(role), self.get_option("inputs")) for role in terms}]

    @staticmethod
    def find(role: str) -> Path:
        """Return the directory of a role. Raises AnsibleLookupError when there is none."""
        from ansible import constants as C

        for directory in C.DEFAULT_ROLES_PATH:
            path = Path(unfrackpath(directory)) / role
            if path.is_dir():
                return path
        raise AnsibleLookupError(f"no role {role} in {', '.join(C.DEFAULT_ROLES_PATH)}")
