"""EC2: what moto's lacks. Images with file systems behind them, reboots, profiles of templates."""

import functools
import logging
import os
from collections.abc import Callable
from contextvars import ContextVar
from dataclasses import dataclass
from ipaddress import IPv4Network
from typing import Any, ClassVar, cast

from moto import settings
from moto.core.responses import ActionResult
from moto.core.types import Base64EncodedString
from moto.ec2.exceptions import InvalidAMIIdError, InvalidLaunchTemplateVersionNotFound
from moto.ec2.models import EC2Backend, launch_templates
from moto.ec2.models import ec2_backends as backends
from moto.ec2.models.amis import Ami
from moto.ec2.models.instances import Instance, Reservation
from moto.ec2.models.launch_templates import LaunchTemplate, LaunchTemplateVersion
from moto.ec2.models.subnets import Subnet
from moto.ec2.responses import EC2Response
from moto.ec2.utils import parse_user_data

from localcloud.host import network
from localcloud.host.images import Image, Images

log = logging.getLogger(__name__)

# The parameters of the request that is being answered: moto drops NoReboot on its way.
request_form: ContextVar[dict[str, str]] = ContextVar("request_form")


@dataclass(frozen=True)
class Ground:
    """What lies below the API: images and machines.

    `freeze` orders an image: instance id, whether the machine may be rebooted, and who is called
    when it is done, with the image's layers, or with none and the reason. `reboot` takes the
    instance id. `sweep` removes the layers that nobody needs any more.
    """

    images: Images
    block: IPv4Network
    freeze: Callable[[str, bool, Callable[[list[str], str], None]], None]
    reboot: Callable[[str], None]
    sweep: Callable[[], object]


class Template(LaunchTemplate):
    """A launch template whose versions can be deleted; a number is never given a second time."""

    def create_version(self, data: dict[str, Any], description: str) -> LaunchTemplateVersion:
        number = self.latest_version_number + 1 if self.versions else 1
        if isinstance(data.get("UserData"), str):  # moto does this for the first version only
            data = {**data, "UserData": parse_user_data(data["UserData"])}
        self.versions.append(LaunchTemplateVersion(self, number, data, description))
        return self.versions[-1]

    def get_version(self, num: Any) -> LaunchTemplateVersion:
        named = {"$default": self.default_version_number, "$latest": self.latest_version_number}
        num = named.get(str(num).lower(), num)
        for version in self.versions:
            if str(version.number) == str(num):
                return version
        raise InvalidLaunchTemplateVersionNotFound(template_id=self.id, version=num)

    def default_version(self) -> LaunchTemplateVersion:
        return self.get_version(self.default_version_number)


class Response(EC2Response):
    def delete_launch_template_versions(self) -> ActionResult:
        """Delete versions other than the default one."""
        template_id = self._get_param("LaunchTemplateId")
        template = self.ec2_backend.get_launch_template(template_id)
        deleted, kept = [], []
        for number in self._get_param("Versions", []):
            answer: dict[str, Any] = {
                "LaunchTemplateId": template.id,
                "LaunchTemplateName": template.name,
                "VersionNumber": int(number),
            }
            version = template.get_version(number)
            if template.is_default(version):
                error = {
                    "Code": "launchTemplateVersionDoesNotExist",
                    "Message": "the default version",
                }
                kept.append({**answer, "ResponseError": error})
            else:
                template.versions.remove(version)
                deleted.append(answer)
        return ActionResult(
            {
                "SuccessfullyDeletedLaunchTemplateVersions": deleted,
                "UnsuccessfullyDeletedLaunchTemplateVersions": kept,
            }
        )


class Backend(EC2Backend):
    """moto's EC2, whose images have layers and whose reboots reach machines."""

    ground: ClassVar[Ground]

    def create_subnet(self, *args: Any, **kwargs: Any) -> Subnet:
        subnet = super().create_subnet(*args, **kwargs)
        for address in network.own(self.ground.block):  # moto gives out none that is in use
            subnet._subnet_ips[address] = None  # type: ignore[assignment]
        return subnet

    def describe_tags(self, filters: dict[str, list[str]] | None = None) -> list[dict[str, str]]:
        # moto looks through the tags of all resources, for each resource that it describes.
        if filters is None or filters.keys() != {"resource-id"}:
            return super().describe_tags(filters)
        return [
            tag
            for resource in filters["resource-id"]
            for key, value in self.tags.get(resource, {}).items()
            for tag in [{"resource_id": resource, "key": key, "value": value, "resource_type": ""}]
        ]

    def run_instances(
        self,
        image_id: str,
        count: int,
        user_data: Base64EncodedString | None,
        security_group_names: list[str],
        **kwargs: Any,
    ) -> Reservation:
        if image_id and image_id not in self.amis:
            raise InvalidAMIIdError([image_id])
        reservation = super().run_instances(
            image_id, count, user_data, security_group_names, **kwargs
        )
        if kwargs.get("launch_template"):
            data = self._get_template_from_args(kwargs["launch_template"]).data
            if profile := data.get("IamInstanceProfile"):
                for instance in reservation.instances:
                    self.associate_iam_instance_profile(
                        instance.id, profile.get("Name"), profile.get("Arn")
                    )
        return reservation

    def create_image(
        self,
        instance_id: str,
        name: str,
        description: str,
        tag_specifications: list[dict[str, Any]],
    ) -> Ami:
        # There are no snapshots here that could have the tags of theirs.
        own = [tags for tags in tag_specifications if tags["ResourceType"] == "image"]
        ami = super().create_image(instance_id, name, description, own)
        ami.state = "pending"
        reboot = request_form.get({}).get("NoReboot", "false").lower() != "true"
        self.ground.freeze(instance_id, reboot, functools.partial(self.finish_image, ami))
        return ami

    def finish_image(self, ami: Ami, layers: list[str], reason: str) -> None:
        """Make a pending image available; or failed, when there are no layers."""
        if ami.id not in self.amis:  # deregistered meanwhile
            return
        if not layers:
            ami.state = "failed"
            log.error("image %s failed: %s", ami.id, reason)
            return
        tags = dict(self.tags.get(ami.id, {}))
        image = Image(ami.id, ami.name or "", layers, ami.description or "", tags=tags)
        self.ground.images.save(image)
        ami.creation_date = image.created_at
        ami.state = "available"

    def deregister_image(self, ami_id: str) -> None:
        super().deregister_image(ami_id)
        self.ground.images.remove(ami_id)
        self.ground.sweep()

    def reboot_instances(self, instance_ids: list[str]) -> list[Instance]:
        for instance_id in instance_ids:
            self.ground.reboot(instance_id)
        return super().reboot_instances(instance_ids)

    def register(self, image: Image) -> None:
        """Add an image that is on disk to those that the API knows."""
        ami = Ami(
            self,
            image.id,
            name=image.name,
            description=image.description,
            virtualization_type="hvm",
            architecture="x86_64",
            root_device_type="ebs",
            root_device_name="/dev/sda1",
            hypervisor="xen",
            tags=image.tags,
        )
        ami.creation_date = image.created_at
        self.amis[image.id] = ami

    def save_tags(self) -> None:
        """Write the tags of images that were changed by the API."""
        for image in list(self.ground.images.known.values()):
            tags = dict(self.tags.get(image.id, {}))
            if image.id in self.amis and tags != image.tags:
                image.tags = tags
                self.ground.images.save(image)


def install(ground: Ground, account: str, region: str) -> Backend:
    """Put this backend in the place of moto's, before its first use."""
    os.environ["MOTO_EC2_LOAD_DEFAULT_AMIS"] = "false"  # hundreds, and none has a file system
    Backend.ground = ground
    vars(launch_templates).update(LaunchTemplate=Template)
    backends.backend = Backend
    settings.ENABLE_KEYPAIR_VALIDATION = True
    return cast(Backend, backends[account][region])
