"""What one local cloud is called, and where its state lives."""

import hashlib
import os
from dataclasses import dataclass
from pathlib import Path

REGION = "us-east-1"
API_PORT = 4566
# Every process that a cloud starts carries this variable, with the cloud's name as its value. It
# is inherited, cannot be lost in a crash, and needs no file that a crash could leave stale.
MARK = "LOCALCLOUD_NAME"


class CloudError(Exception):
    """Something that the user can repair; the message says what failed and what to do."""


@dataclass(frozen=True)
class Cloud:
    """One local cloud: all its names come from the path of its state directory."""

    state: Path

    @property
    def tag(self) -> str:
        return hashlib.sha256(str(self.state).encode()).hexdigest()[:8]

    @property
    def name(self) -> str:
        """Name of the network namespace, the control group and the mark of processes."""
        return f"localcloud-{self.tag}"

    @property
    def link(self) -> str:
        """Name of the host's side of the cable into the cloud."""
        return f"lc-{self.tag}"

    @property
    def images(self) -> Path:
        return self.state / "images"

    @property
    def machines(self) -> Path:
        return self.state / "machines"

    @property
    def log(self) -> Path:
        return self.state / "cloud.log"

    @property
    def aws_config(self) -> Path:
        return self.state / "aws.ini"

    @property
    def parameters(self) -> Path:
        return self.state / "parameters.json"

    def environment(self) -> dict[str, str]:
        """Return the environment of a process that belongs to this cloud."""
        return {**os.environ, MARK: self.name}
