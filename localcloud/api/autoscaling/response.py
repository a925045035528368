"""Auto Scaling's API: what requests ask for, and what they are answered."""

from typing import Any, cast

from moto.autoscaling.exceptions import AutoscalingClientError, ValidationError
from moto.autoscaling.responses import AutoScalingResponse
from moto.core.common_types import TYPE_RESPONSE
from moto.core.responses import ActionResult, EmptyResult

from localcloud.api.autoscaling import lifecycle
from localcloud.api.autoscaling.backend import Backend
from localcloud.api.autoscaling.groups import Group
from localcloud.api.autoscaling.lifecycle import Action, Hook
from localcloud.api.autoscaling.members import Member, first_hooks


class Response(AutoScalingResponse):
    """moto's answers, and those to what moto does not know."""

    @property
    def autoscaling_backend(self) -> Backend:
        return cast(Backend, super().autoscaling_backend)

    def call_action(self) -> TYPE_RESPONSE:
        self.autoscaling_backend.reconcile()  # time-outs that are over count before the answer
        return cast(TYPE_RESPONSE, super().call_action())

    @property
    def group(self) -> Group:
        return self.autoscaling_backend.group(self._get_param("AutoScalingGroupName"))

    def create_auto_scaling_group(self) -> ActionResult:
        specifications = self._get_param("LifecycleHookSpecificationList", [])
        token = first_hooks.set([Hook.of(specification) for specification in specifications])
        try:
            super().create_auto_scaling_group()
        finally:
            first_hooks.reset(token)
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
        activity = self.autoscaling_backend.group_of(member).terminate(member, decrement)
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
            for activity in backend.ground.activities.known
            if (not name or activity.group == name)
            and (not wanted or activity.id in wanted)
            and (deleted or activity.group in backend.autoscaling_groups)
        ]
        return self._page("Activities", found)

    def _page(self, key: str, found: list[dict[str, Any]]) -> ActionResult:
        start = int(self._get_param("NextToken") or 0)
        stop = start + (self._get_int_param("MaxRecords") or 100)
        token = str(stop) if stop < len(found) else None
        return ActionResult({key: found[start:stop], "NextToken": token})

    # ---- lifecycle hooks and actions

    def put_lifecycle_hook(self) -> ActionResult:
        group, params = self.group, self._get_params()
        group.put_hook(Hook.of(params, group.hooks.get(params["LifecycleHookName"])))
        return EmptyResult()

    def describe_lifecycle_hooks(self) -> ActionResult:
        group, wanted = self.group, self._get_param("LifecycleHookNames", [])
        hooks = [hook for hook in group.hooks.values() if not wanted or hook.name in wanted]
        return ActionResult({"LifecycleHooks": [hook.describe(group.name) for hook in hooks]})

    def delete_lifecycle_hook(self) -> ActionResult:
        self.group.delete_hook(self._get_param("LifecycleHookName"))
        self.group.reconcile()
        return EmptyResult()

    def complete_lifecycle_action(self) -> ActionResult:
        result = self._get_param("LifecycleActionResult")
        if result not in lifecycle.RESULTS:
            raise ValidationError("LifecycleActionResult must be CONTINUE or ABANDON.")
        member, action = self._waiting()
        how = "Lifecycle Action Completed with ABANDON Result"
        self.group.complete(member, action.hook.name, result, how)
        self.group.reconcile()
        return EmptyResult()

    def record_lifecycle_action_heartbeat(self) -> ActionResult:
        _, action = self._waiting()
        action.beat = self.group.now()
        return EmptyResult()

    def _waiting(self) -> tuple[Member, Action]:
        """Return the action that a request is about, and who waits. Raises ValidationError."""
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
