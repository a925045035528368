"""Templates of the roles, rendered by Ansible's own templar from the roles' defaults."""

from pathlib import Path
from typing import Any

import yaml
from ansible.parsing.dataloader import DataLoader
from ansible.template import Templar, trust_as_template

ROLES = Path(__file__).parents[2] / "roles"


def render(role: str, template: str, **inputs: Any) -> str:
    """Return what a role writes, given its inputs."""
    defaults = yaml.safe_load((ROLES / role / "defaults" / "main.yml").read_text()) or {}
    text = (ROLES / role / "templates" / template).read_text()
    templar = Templar(DataLoader(), {"ansible_managed": "managed", **defaults, **inputs})
    return str(templar.template(trust_as_template(text)))
