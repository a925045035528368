"""Auto Scaling's API: moto's, with the groups of this cloud and what it does not answer."""

from collections.abc import Iterator
from typing import Any, cast

from moto.autoscaling import models
from moto.autoscaling.exceptions import AutoscalingClientError, ValidationError
from moto.autoscaling.models import AutoScalingBackend, FakeAutoScalingGroup
from moto.autoscaling.models import autoscaling_backends as backends
from moto.autoscaling.responses import AutoScalingResponse
from moto.core.common_types import TYPE_RESPONSE
from moto.core.responses import ActionResult, EmptyResult

from localcloud.api.autoscaling import activities, lifecycle
from localcloud.api.autoscaling.activities import Activities
from localcloud.api.autoscaling.groups import IN_SERVICE, STANDBY, Group, Member
from localcloud.api.autoscaling.lifecycle import Action, Clock, Hook
from localcloud.api.autoscaling.refresh import Source


class Backend(AutoScalingBackend):
    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.clock = Clock()
        self.activities = Activities()
        self.first_hooks: list[Hook] = []  # of the group that is being made

    def groups(self) -> list[Group]:
        return cast(list[Group], list(self.autoscaling_groups.values()))

    def reconcile(self) -> None:
        for group in self.groups():
            group.reconcile()

    def group(self, name: str) -> Group:
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

    def managed(self, instance_id: str) -> Member:
        if member := self.member(instance_id):
            return member
        raise ValidationError(
            f"Instance Id not found - No managed instance found for instance ID: {instance_id}"
        )

    def chosen(self, group: Group, instance_ids: list[str]) -> list[Member]:
        members = [self.managed(instance_id) for instance_id in instance_ids]
        for member in members:
            if member.auto_scaling_group is not group:
                raise ValidationError(
                    f"The instance {member.instance_id} is not part of Auto Scaling group "
                    f"{group.name}."
                )
        return members

    def source(self, template: dict[str, str]) -> Source:
        """The launch template and version that a request names."""
        ec2 = self.ec2_backend
        found = (
            ec2.get_launch_template(template["LaunchTemplateId"])
            if "LaunchTemplateId" in template
            else ec2.get_launch_template_by_name(template.get("LaunchTemplateName", ""))
        )
        source = Source(found, template.get("Version", "$Default"))
        self.check(source)
        return source

    def check(self, source: Source) -> None:
        """Raise when no instance could be made."""
        image = source.template.get_version(source.version).image_id
        if image not in self.ec2_backend.amis:
            raise ValidationError(
                "You must use a valid fully-formed launch template. "
                f"The image id '[{image}]' does not exist"
            )

    def create_auto_scaling_group(self, *args: Any, **kwargs: Any) -> FakeAutoScalingGroup:
        if template := kwargs.get("launch_template"):
            self.source(template)
        group = super().create_auto_scaling_group(*args, **kwargs)
        # moto's is 300 when none is given, or 0.
        group.health_check_grace_period = int(kwargs.get("health_check_period") or 0)
        return group

    def update_auto_scaling_group(self, *args: Any, **kwargs: Any) -> FakeAutoScalingGroup:
        self.group(kwargs["name"])
        if template := kwargs.get("launch_template"):
            self.source(template)
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
            group.end(member)
        del self.autoscaling_groups[group_name]

    def set_desired_capacity(self, group_name: str, desired_capacity: int | None) -> None:
        self.group(group_name).set_desired_capacity(desired_capacity)

    def set_instance_health(
        self, instance_id: str, health_status: str, respect_grace: bool = True
    ) -> None:
        member = self.managed(instance_id)
        group = member.auto_scaling_group
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
        """The lifecycle actions that wait, with what else only a notification tells."""
        return [
            {
                "instance": member.instance_id,
                "group": member.auto_scaling_group.name,
                "state": member.lifecycle_state,
                "hook": name,
                "token": action.token,
                "seconds": round(action.deadline - self.clock.now(), 1),
            }
            for member in self.members()
            for name, action in member.actions.items()
        ]


class Response(AutoScalingResponse):
    @property
    def autoscaling_backend(self) -> Backend:
        return cast(Backend, super().autoscaling_backend)

    def call_action(self) -> TYPE_RESPONSE:
        self.autoscaling_backend.reconcile()  # what is over is over before it is asked about
        return cast(TYPE_RESPONSE, super().call_action())

    @property
    def group(self) -> Group:
        return self.autoscaling_backend.group(self._get_param("AutoScalingGroupName"))

    def create_auto_scaling_group(self) -> ActionResult:
        backend = self.autoscaling_backend
        specifications = self._get_param("LifecycleHookSpecificationList", [])
        backend.first_hooks = [new_hook(specification) for specification in specifications]
        try:
            super().create_auto_scaling_group()
        finally:
            backend.first_hooks = []
        self.group.default_instance_warmup = self._get_int_param("DefaultInstanceWarmup")
        return EmptyResult()

    def update_auto_scaling_group(self) -> ActionResult:
        warmup = self._get_int_param("DefaultInstanceWarmup")
        if warmup is not None:
            self.group.default_instance_warmup = None if warmup < 0 else warmup
        return super().update_auto_scaling_group()

    def delete_auto_scaling_group(self) -> ActionResult:
        self.autoscaling_backend.delete_auto_scaling_group(
            self.group.name, bool(self._get_bool_param("ForceDelete", False))
        )
        return EmptyResult()

    def set_instance_health(self) -> ActionResult:
        status = self._get_param("HealthStatus")
        if status not in ("Healthy", "Unhealthy"):
            raise ValidationError("Valid instance health states are: [Healthy, Unhealthy].")
        self.autoscaling_backend.set_instance_health(
            self._get_param("InstanceId"),
            status,
            bool(self._get_bool_param("ShouldRespectGracePeriod", True)),
        )
        return EmptyResult()

    def terminate_instance_in_auto_scaling_group(self) -> ActionResult:
        member = self.autoscaling_backend.managed(self._get_param("InstanceId"))
        decrement = bool(self._get_bool_param("ShouldDecrementDesiredCapacity", False))
        activity = member.auto_scaling_group.terminate(member, decrement)
        return ActionResult({"Activity": activity.describe()})

    def enter_standby(self) -> ActionResult:
        members = self.autoscaling_backend.chosen(self.group, self._get_param("InstanceIds", []))
        decrement = bool(self._get_bool_param("ShouldDecrementDesiredCapacity", False))
        told = self.group.enter_standby(members, decrement)
        return ActionResult({"Activities": [activity.describe() for activity in told]})

    def exit_standby(self) -> ActionResult:
        members = self.autoscaling_backend.chosen(self.group, self._get_param("InstanceIds", []))
        told = self.group.exit_standby(members)
        return ActionResult({"Activities": [activity.describe() for activity in told]})

    def describe_scaling_activities(self) -> ActionResult:
        name = self._get_param("AutoScalingGroupName")
        wanted = self._get_param("ActivityIds", [])
        deleted = self._get_bool_param("IncludeDeletedGroups", False)
        backend = self.autoscaling_backend
        if name and not deleted:
            backend.group(name)
        found = [
            activity.describe()
            for activity in backend.activities.known
            if (not name or activity.group == name)
            and (not wanted or activity.id in wanted)
            and (deleted or activity.group in backend.autoscaling_groups)
        ]
        return self._page("Activities", found)

    def _page(self, key: str, found: list[dict[str, Any]]) -> ActionResult:
        start = int(self._get_param("NextToken") or 0)
        end = start + (self._get_int_param("MaxRecords") or 100)
        token = str(end) if end < len(found) else None
        return ActionResult({key: found[start:end], "NextToken": token})

    # ---- lifecycle hooks and actions

    def put_lifecycle_hook(self) -> ActionResult:
        group, params = self.group, self._get_params()
        group.put_hook(new_hook(params, group.hooks.get(params["LifecycleHookName"])))
        return EmptyResult()

    def describe_lifecycle_hooks(self) -> ActionResult:
        group, wanted = self.group, self._get_param("LifecycleHookNames", [])
        hooks = [hook for hook in group.hooks.values() if not wanted or hook.name in wanted]
        return ActionResult({"LifecycleHooks": [hook.describe(group.name) for hook in hooks]})

    def delete_lifecycle_hook(self) -> ActionResult:
        self.group.delete_hook(self._get_param("LifecycleHookName"))
        return EmptyResult()

    def complete_lifecycle_action(self) -> ActionResult:
        result = self._get_param("LifecycleActionResult")
        if result not in lifecycle.RESULTS:
            raise ValidationError("LifecycleActionResult must be CONTINUE or ABANDON.")
        member, action = self._waiting()
        group = member.auto_scaling_group
        word = "Lifecycle Action Completed with ABANDON Result"
        group.complete(member, action.hook.name, result, word)
        group.reconcile()
        return EmptyResult()

    def record_lifecycle_action_heartbeat(self) -> ActionResult:
        _, action = self._waiting()
        action.beat = self.autoscaling_backend.clock.now()
        return EmptyResult()

    def _waiting(self) -> tuple[Member, Action]:
        """The action that a request is about."""
        token, instance_id = self._get_param("LifecycleActionToken"), self._get_param("InstanceId")
        if not token and not instance_id:
            raise ValidationError("Either InstanceId or LifecycleActionToken must be specified.")
        for member in self.group.members:
            action = member.actions.get(self._get_param("LifecycleHookName"))
            if action and (action.token == token if token else member.instance_id == instance_id):
                return member, action
        which = f"token {token}" if token else f"instance ID {instance_id}"
        raise ValidationError(f"No active Lifecycle Action found with {which}")

    # ---- instance refreshes

    def start_instance_refresh(self) -> ActionResult:
        if self._get_param("Strategy", "Rolling") != "Rolling":
            raise ValidationError("Only the strategy Rolling is emulated.")
        refresh = self.group.start_refresh(
            self._get_param("DesiredConfiguration", {}), self._get_param("Preferences", {})
        )
        return ActionResult({"InstanceRefreshId": refresh.id})

    def describe_instance_refreshes(self) -> ActionResult:
        wanted = self._get_param("InstanceRefreshIds", [])
        found = [
            refresh.describe()
            for refresh in self.group.refreshes
            if not wanted or refresh.id in wanted
        ]
        return self._page("InstanceRefreshes", found)

    def cancel_instance_refresh(self) -> ActionResult:
        refresh = self.group.open_refresh()
        refresh.cancel()
        return ActionResult({"InstanceRefreshId": refresh.id})

    def rollback_instance_refresh(self) -> ActionResult:
        refresh = self.group.open_refresh()
        if not refresh.reversible or refresh.status not in ("Pending", "InProgress", "Baking"):
            raise AutoscalingClientError(
                "IrreversibleInstanceRefresh",
                "The instance refresh cannot be rolled back: it has no desired configuration, or "
                "the group uses the $Latest or $Default version of its launch template.",
            )
        refresh.roll_back("Rolled back due to user request.")
        return ActionResult({"InstanceRefreshId": refresh.id})

    def disable_metrics_collection(self) -> ActionResult:
        """Nothing is collected anyway; the group only forgets which metrics were asked for."""
        self.autoscaling_backend.enable_metrics_collection(
            self._get_param("AutoScalingGroupName"), []
        )
        return EmptyResult()


def new_hook(params: dict[str, Any], old: Hook | None = None) -> Hook:
    """A hook as a request describes it; what it does not say stays as it was.

    Raises ValidationError.
    """
    transition = params.get("LifecycleTransition", old.transition if old else None)
    if transition not in lifecycle.TRANSITIONS:
        raise ValidationError(f"LifecycleTransition must be one of {lifecycle.TRANSITIONS}.")
    seconds = int(params.get("HeartbeatTimeout", old.heartbeat_timeout if old else 3600))
    low, high = lifecycle.LEAST_HEARTBEAT_SECONDS, lifecycle.MOST_HEARTBEAT_SECONDS
    if not low <= seconds <= high:
        raise ValidationError(f"HeartbeatTimeout must be {low} to {high} seconds.")
    result = params.get("DefaultResult", old.default_result if old else "ABANDON")
    if result not in lifecycle.RESULTS:
        raise ValidationError("DefaultResult must be CONTINUE or ABANDON.")
    return Hook(
        params["LifecycleHookName"],
        transition,
        seconds,
        result,
        params.get("NotificationMetadata", old.notification_metadata if old else None),
        params.get("NotificationTargetARN", old.notification_target if old else None),
        params.get("RoleARN", old.role if old else None),
    )


def install(account: str, region: str) -> Backend:
    """Put these classes in the place of moto's, before its first use."""
    vars(models).update(FakeAutoScalingGroup=Group, InstanceState=Member)
    backends.backend = Backend
    return cast(Backend, backends[account][region])
