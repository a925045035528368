"""Lookup plugin `secret`: the fleet's secrets, from the parameter store of AWS."""

from __future__ import annotations

DOCUMENTATION = r"""
name: secret
short_description: The fleet's secrets, from the parameter store
description:
  - Returns the value of the parameter C(/superset-fleet/<fleet>/secrets/<term>).
  - All secrets of a fleet are read together, once for a run of Ansible, and again when one is
    asked for that was not there.
notes:
  - Needs the permission C(ssm:GetParametersByPath), and C(kms:Decrypt) for the key of the
    parameters.
options:
  _terms:
    description:
      - Names of the secrets, which are the names of the variables they end in.
      - Without any, the names of all secrets that there are are returned.
    required: false
  fleet:
    description: Name of the fleet.
    type: str
    required: true
    vars:
      - name: fleet_name
  region:
    description: Region of the parameters.
    type: str
    required: true
    vars:
      - name: fleet_region
  config_file:
    description: AWS configuration file. Credentials and endpoint then come from this file alone.
    type: str
    vars:
      - name: fleet_aws_config_file
"""

EXAMPLES = r"""
vault_redis_cache_password: "{{ lookup('secret', 'redis_cache_password') }}"
names_of_all: "{{ query('secret') }}"
"""

RETURN = r"""
_raw:
  description: The values, one for each term; without terms the names.
  type: list
  elements: str
"""

from typing import Any

from ansible.errors import AnsibleLookupError
from ansible.plugins.lookup import LookupBase


class LookupModule(LookupBase):  # type: ignore[misc]
    """The plugin."""

    def run(
        self, terms: list[str], variables: dict[str, Any] | None = None, **kwargs: Any
    ) -> list[str]:
        """Return the secrets that the terms name, or the names of all."""
        try:
            from superset_fleet.cloud.client import AwsError
            from superset_fleet.cloud.parameters import secrets_path
            from superset_fleet.control import parameters as secrets
        except ImportError as error:
            raise AnsibleLookupError(f"{error}: run ./fleet, it makes the environment") from None
        self.set_options(var_options=variables, direct=kwargs)
        fleet, region = self.get_option("fleet"), self.get_option("region")
        try:
            known = secrets.read_secrets(fleet, region, self.get_option("config_file"), terms)
        except AwsError as error:
            raise AnsibleLookupError(f"the secrets of fleet {fleet}: {error}") from None
        missing = [f"{secrets_path(fleet)}/{term}" for term in terms if term not in known]
        if missing:
            raise AnsibleLookupError(
                f"region {region} has no parameter {', '.join(missing)}: "
                "run playbooks/provision.yml"
            )
        return [known[term] for term in terms] or sorted(known)
