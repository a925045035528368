"""What all groups stand on: a clock, the scaling activities, EC2 and its launch templates."""

import time
from dataclasses import dataclass

from moto.autoscaling.exceptions import ValidationError
from moto.ec2.models import EC2Backend
from moto.ec2.models.launch_templates import LaunchTemplate

from localcloud.api.autoscaling.activities import Activities


class Clock:
    """The groups' own time, in seconds. `python -m localcloud forward` moves it on."""

    def __init__(self) -> None:
        self.skipped_seconds = 0.0

    def now(self) -> float:
        return time.monotonic() + self.skipped_seconds

    def forward(self, seconds: float) -> None:
        self.skipped_seconds += seconds


@dataclass(frozen=True)
class Source:
    """What members are made from: one version of a launch template."""

    template: LaunchTemplate
    version: str  # a number, $Latest or $Default

    @property
    def number(self) -> int:
        return int(self.template.get_version(self.version).number)

    def describe(self) -> dict[str, str]:
        return {
            "LaunchTemplateId": self.template.id,
            "LaunchTemplateName": self.template.name,
            "Version": self.version,
        }


@dataclass(frozen=True)
class Ground:
    """What lies below the groups."""

    clock: Clock
    activities: Activities
    ec2: EC2Backend

    def source(self, template: dict[str, str]) -> Source:
        """Return the launch template and version that a request names.

        Raises ValidationError when no instance could be made from it, as its image is not there.
        """
        found = (
            self.ec2.get_launch_template(template["LaunchTemplateId"])
            if "LaunchTemplateId" in template
            else self.ec2.get_launch_template_by_name(template.get("LaunchTemplateName", ""))
        )
        source = Source(found, template.get("Version", "$Default"))
        image = source.template.get_version(source.version).image_id
        if image not in self.ec2.amis:
            raise ValidationError(
                "You must use a valid fully-formed launch template. "
                f"The image id '[{image}]' does not exist"
            )
        return source
