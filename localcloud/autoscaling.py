"""Auto-scaling groups: what moto's lack.

moto puts all members into the first subnet, launches from the default version of the launch
template whatever the group says, takes any desired capacity, and never replaces an unhealthy
member. `Group.launch` and `Group.retire` are the two places where a member comes and goes: that is
where lifecycle hooks (Pending:Wait, Terminating:Wait) belong.
"""

from collections import Counter
from collections.abc import Iterable
from typing import Any, cast

from moto.autoscaling import models
from moto.autoscaling.exceptions import ValidationError
from moto.autoscaling.models import (
    ASG_NAME_TAG,
    AutoScalingBackend,
    FakeAutoScalingGroup,
    InstanceState,
)
from moto.autoscaling.models import autoscaling_backends as backends
from moto.autoscaling.responses import AutoScalingResponse
from moto.core.responses import ActionResult, EmptyResult

VERSION_TAG = "aws:ec2launchtemplate:version"


class Member(InstanceState):
    """A member of a group; it knows the version of the launch template it was made from."""

    @property
    def launch_template(self) -> dict[str, Any] | None:
        template = super().launch_template
        if template:
            tags = {tag["key"]: tag["value"] for tag in self.instance.get_tags()}
            template["Version"] = tags.get(VERSION_TAG, template["Version"])
        return template


def next_subnet(subnets: Iterable[str], used: Iterable[str]) -> str:
    """The subnet for a newcomer: the one with the fewest members, the first one of equals."""
    members = Counter(used)
    return min(subnets, key=lambda subnet: members[subnet])


class Group(FakeAutoScalingGroup):
    def launch(self) -> Member:
        """Start one member, in its own reservation, as AWS does."""
        template = None
        if self.ec2_launch_template:
            version = self.ec2_launch_template.get_version(self.launch_template_version)
            template = {"LaunchTemplateId": version.template.id, "Version": str(version.number)}
        subnet = None
        if self.vpc_zone_identifier:
            used = [str(state.instance.subnet_id) for state in self.instance_states]
            subnet = next_subnet(self.vpc_zone_identifier.split(","), used)
        tags = {**self.instance_tags, **self.get_propagated_tags(), ASG_NAME_TAG: self.name}
        reservation = self.autoscaling_backend.ec2_backend.run_instances(
            self.image_id,
            1,
            self.user_data,
            self.security_groups,
            instance_type=self.instance_type,
            is_instance_type_default=False,
            tags={"instance": tags},
            placement=None if subnet else self.availability_zones[0],
            launch_config=self.launch_config,
            launch_template=template,
            subnet_id=subnet,
        )
        protected = self.new_instances_protected_from_scale_in
        member = Member(reservation.instances[0], "InService", "Healthy", protected, self)
        self.instance_states.append(member)
        return member

    def retire(self, member: InstanceState) -> None:
        """Let one member go."""
        self.instance_states = [state for state in self.instance_states if state is not member]
        self.autoscaling_backend.ec2_backend.terminate_instances([member.instance_id])

    def surplus(self, count: int) -> list[InstanceState]:
        """The members that leave at a scale-in: from the fullest zone, the oldest first."""
        left = [state for state in self.active_instances() if not state.protected_from_scale_in]
        chosen: list[InstanceState] = []
        for _ in range(min(count, len(left))):
            zones = Counter(state.availability_zone for state in left)
            victim = min(
                left,
                key=lambda state: (-zones[state.availability_zone], state.instance.launch_time),
            )
            left.remove(victim)
            chosen.append(victim)
        return chosen

    def set_desired_capacity(self, new_capacity: int | None) -> None:
        low, high = self.min_size or 0, self.max_size or 0
        desired = low if new_capacity is None else new_capacity
        if not low <= desired <= high:
            bound = f"above max value {high}" if desired > high else f"below min value {low}"
            raise ValidationError(
                f"New SetDesiredCapacity value {desired} is {bound} for the AutoScalingGroup."
            )
        self.desired_capacity = desired
        missing = desired - len(self.active_instances())
        for _ in range(missing):
            self.launch()
        for member in self.surplus(-missing):
            self.retire(member)
        if self.name in self.autoscaling_backend.autoscaling_groups:
            self.autoscaling_backend.update_attached_elbs(self.name)
            self.autoscaling_backend.update_attached_target_groups(self.name)

    def replace_autoscaling_group_instances(
        self, count_needed: int, propagated_tags: dict[str, str]
    ) -> None:
        for _ in range(count_needed):
            self.launch()


class Backend(AutoScalingBackend):
    def delete_auto_scaling_group(self, group_name: str) -> None:
        if group := self.autoscaling_groups.get(group_name):
            group.min_size = 0
        super().delete_auto_scaling_group(group_name)

    def set_instance_health(self, instance_id: str, health_status: str) -> None:
        super().set_instance_health(instance_id, health_status)
        group = self.group_of(instance_id)
        suspended = (
            {process["ProcessName"] for process in group.suspended_processes} if group else {}
        )
        if health_status == "Unhealthy" and "ReplaceUnhealthy" not in suspended:
            self.terminate_instance(instance_id, should_decrement=False)

    def member(self, instance_id: str) -> InstanceState | None:
        for group in self.autoscaling_groups.values():
            for state in group.instance_states:
                if state.instance_id == instance_id:
                    return state
        return None

    def group_of(self, instance_id: str) -> FakeAutoScalingGroup | None:
        member = self.member(instance_id)
        return member.auto_scaling_group if member else None


class Response(AutoScalingResponse):
    def disable_metrics_collection(self) -> ActionResult:
        """Nothing is collected anyway; the group only forgets which metrics were asked for."""
        self.autoscaling_backend.enable_metrics_collection(
            self._get_param("AutoScalingGroupName"), []
        )
        return EmptyResult()


def install(account: str, region: str) -> Backend:
    """Put these classes in the place of moto's, before its first use."""
    vars(models).update(FakeAutoScalingGroup=Group, InstanceState=Member)
    backends.backend = Backend
    return cast(Backend, backends[account][region])
