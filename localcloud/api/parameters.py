"""The parameters of Systems Manager, in a file: they outlive the daemon."""

import json
from ipaddress import IPv4Network
from pathlib import Path
from typing import Any

from moto.ssm.models import SimpleSystemManagerBackend, ssm_backends

from localcloud.host.system import write

CIDR_PARAMETER = "/localcloud/vpc_cidr"


class Parameters:
    """All parameters of one region; those in the file at `path` are there from the beginning."""

    def __init__(self, account: str, region: str, path: Path, block: IPv4Network) -> None:
        self.ssm: SimpleSystemManagerBackend = ssm_backends[account][region]
        self.path = path
        self.text = path.read_text() if path.exists() else ""  # as on disk
        for parameter in json.loads(self.text or "[]"):
            tags = [{"Key": key, "Value": value} for key, value in parameter.pop("tags").items()]
            self.ssm.put_parameter(**parameter, overwrite=False, tags=tags)
        self.ssm.put_parameter(
            name=CIDR_PARAMETER,
            description="Addresses that machines of the local cloud can have",
            value=str(block),
            parameter_type="String",
            allowed_pattern="",
            keyid="",
            overwrite=False,
            tags=[],
            data_type="text",
            tier=None,
            policies=None,
        )

    def save(self) -> None:
        """Write the parameters to the file, if they have changed."""
        text = json.dumps(self._dump(), indent=2) + "\n"
        if text != self.text:
            write(self.path, text, 0o600)
            self.text = text

    def _dump(self) -> list[dict[str, Any]]:
        return [
            {
                "name": parameter.name,
                "description": parameter.description or "",
                "value": parameter.decrypt(parameter.value),
                "parameter_type": parameter.parameter_type,
                "allowed_pattern": parameter.allowed_pattern or "",
                "keyid": parameter.keyid or "",
                "data_type": parameter.data_type,
                "tier": parameter.tier,
                "policies": parameter.policies,
                "tags": self.ssm.list_tags_for_resource("Parameter", name),
            }
            for name, versions in sorted(dict.items(self.ssm._parameters))
            if versions and not name.startswith("/aws/") and name != CIDR_PARAMETER
            for parameter in [versions[-1]]
        ]
