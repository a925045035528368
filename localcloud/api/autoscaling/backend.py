"""All auto-scaling groups of a cloud: moto's backend, with this package's groups in it."""

from collections.abc import Iterator
from typing import Any, ClassVar, cast

from moto.autoscaling import models
from moto.autoscaling.exceptions import AutoscalingClientError, ValidationError
from moto.autoscaling.models import AutoScalingBackend, FakeAutoScalingGroup
from moto.autoscaling.models import autoscaling_backends as backends

from localcloud.api.autoscaling import activities
from localcloud.api.autoscaling.ground import Ground
from localcloud.api.autoscaling.groups import Group
from localcloud.api.autoscaling.members import IN_SERVICE, STANDBY, Member, Members


class Backend(AutoScalingBackend):
    ground: ClassVar[Ground]

    def groups(self) -> list[Group]:
        return cast(list[Group], list(self.autoscaling_groups.values()))

    def reconcile(self) -> None:
        for group in self.groups():
            group.reconcile()

    def group(self, name: str) -> Group:
        """Return the group of that name. Raises ValidationError."""
        if name not in self.autoscaling_groups:
            raise ValidationError(
                f"AutoScalingGroup name not found - AutoScalingGroup '{name}' not found"
            )
        return cast(Group, self.autoscaling_groups[name])

    def members(self) -> Iterator[Member]:
        for group in self.groups():
            yield from group.members

    def member(self, instance_id: str) -> Member | None:
        return next((one for one in self.members() if one.instance_id == instance_id), None)

    def group_of(self, member: Member) -> Group:
        """Return the group of a member, which itself knows it as `Members` only."""
        return self.group(member.auto_scaling_group.name)

    def managed(self, instance_id: str) -> Member:
        """Return the member of that id. Raises ValidationError."""
        if member := self.member(instance_id):
            return member
        raise ValidationError(
            f"Instance Id not found - No managed instance found for instance ID: {instance_id}"
        )

    def chosen(self, group: Group, instance_ids: list[str]) -> list[Member]:
        """Return the members of a group by their ids. Raises ValidationError."""
        members = [self.managed(instance_id) for instance_id in instance_ids]
        for member in members:
            if member.auto_scaling_group is not group:
                raise ValidationError(
                    f"The instance {member.instance_id} is not part of Auto Scaling group "
                    f"{group.name}."
                )
        return members

    def create_auto_scaling_group(self, *args: Any, **kwargs: Any) -> FakeAutoScalingGroup:
        if template := kwargs.get("launch_template"):
            self.ground.source(template)
        group = super().create_auto_scaling_group(*args, **kwargs)
        # moto's is 300 when none is given, or 0.
        group.health_check_grace_period = int(kwargs.get("health_check_period") or 0)
        return group

    def update_auto_scaling_group(self, *args: Any, **kwargs: Any) -> FakeAutoScalingGroup:
        self.group(kwargs["name"])
        if template := kwargs.get("launch_template"):
            self.ground.source(template)
        return super().update_auto_scaling_group(*args, **kwargs)

    def delete_auto_scaling_group(self, group_name: str, force: bool = False) -> None:
        group = self.group(group_name)
        if group.members and not force:
            raise AutoscalingClientError(
                "ResourceInUse",
                "You cannot delete an AutoScalingGroup while there are instances or pending Spot "
                "instance request(s) still in the group.",
            )
        for member in group.members:
            group.remove(member)
        del self.autoscaling_groups[group_name]

    def set_desired_capacity(self, group_name: str, desired_capacity: int | None) -> None:
        self.group(group_name).set_desired_capacity(desired_capacity)

    def set_instance_health(
        self, instance_id: str, health_status: str, respect_grace: bool = True
    ) -> None:
        member = self.managed(instance_id)
        group = self.group_of(member)
        age = group.now() - member.in_service_at
        if respect_grace and age < (group.health_check_grace_period or 0):
            return
        member.health_status = health_status
        member.unhealthy_because = activities.USER_HEALTH
        group.reconcile()

    def set_instance_protection(
        self, group_name: str, instance_ids: list[str], protected_from_scale_in: bool | None
    ) -> None:
        members = self.chosen(self.group(group_name), instance_ids)
        for member in members:
            if member.lifecycle_state not in (IN_SERVICE, STANDBY):
                raise ValidationError(
                    f"The instance {member.instance_id} is not in InService or Standby."
                )
        for member in members:
            member.protected_from_scale_in = protected_from_scale_in
        self.group(group_name).reconcile()

    def notify_terminate_instances(self, instance_ids: list[str]) -> None:
        self.reconcile()

    def waiting(self) -> list[dict[str, Any]]:
        """Return the lifecycle actions that wait, with the seconds that are left of their time-out.

        Each has its token, which AWS tells only in notifications.
        """
        return [
            {
                "instance": member.instance_id,
                "group": member.auto_scaling_group.name,
                "state": member.lifecycle_state,
                "hook": name,
                "token": action.token,
                "seconds": round(action.deadline - self.ground.clock.now(), 1),
            }
            for member in self.members()
            for name, action in member.actions.items()
        ]


def install(ground: Ground, account: str, region: str) -> Backend:
    """Put these classes in the place of moto's, before its first use."""
    Backend.ground = Members.ground = ground
    vars(models).update(FakeAutoScalingGroup=Group, InstanceState=Member)
    backends.backend = Backend
    return cast(Backend, backends[account][region])
