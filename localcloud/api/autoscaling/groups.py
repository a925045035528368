"""Auto-scaling groups and their members.

moto's members are in service or gone. Here they wait for lifecycle hooks, are spread over the
zones, come from the version of the launch template that the group says, are replaced when they are
unhealthy, and each coming and going is a scaling activity. `Group.launch` and `Group.retire` are
the two places where a member comes and goes; `Group.reconcile` decides who does.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from moto.autoscaling.exceptions import AutoscalingClientError, ValidationError
from moto.autoscaling.models import ASG_NAME_TAG, FakeAutoScalingGroup, InstanceState
from moto.core.exceptions import ServiceException

from localcloud.api.autoscaling import activities
from localcloud.api.autoscaling.activities import DIFFERENCE, Activity, at, cause
from localcloud.api.autoscaling.lifecycle import LAUNCHING, TERMINATING, Action, Hook
from localcloud.api.autoscaling.refresh import Preferences, Refresh, Source

if TYPE_CHECKING:
    from localcloud.api.autoscaling.backend import Backend

VERSION_TAG = "aws:ec2launchtemplate:version"
TEMPLATE_TAG = "aws:ec2launchtemplate:id"
GONE = ("shutting-down", "terminated", "stopping", "stopped")  # states of an instance
PENDING, IN_SERVICE, STANDBY, LEAVING = "Pending", "InService", "Standby", "Terminating"
MOST_HOOKS = 50


class Member(InstanceState):
    """A member of a group."""

    auto_scaling_group: Group

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.actions: dict[str, Action] = {}  # that it waits for: name of the hook → action
        self.activity: Activity | None = None  # its coming or going, while that lasts
        self.in_service_at = self.auto_scaling_group.now()
        self.unhealthy_because = activities.EC2_HEALTH

    @property
    def launch_template(self) -> dict[str, Any] | None:
        """The launch template and the version that it was made from."""
        template = super().launch_template
        if template:
            tags = {tag["key"]: tag["value"] for tag in self.instance.get_tags()}
            template["Version"] = tags.get(VERSION_TAG, template["Version"])
        return template

    @property
    def zone(self) -> str:
        return str(self.availability_zone)

    @property
    def phase(self) -> str:
        """The lifecycle state without :Wait."""
        return str(self.lifecycle_state.partition(":")[0])

    @property
    def target(self) -> str:
        """The state that it is on its way to, which the instance finds in its metadata."""
        return {PENDING: IN_SERVICE, LEAVING: "Terminated"}.get(self.phase, self.phase)


def next_zone(zones: Iterable[str], used: Iterable[str]) -> str:
    """The zone for a newcomer: the one with the fewest members, the first one of equals."""
    members = Counter(used)
    return min(zones, key=lambda zone: members[zone])


class Group(FakeAutoScalingGroup):
    autoscaling_backend: Backend
    instance_states: list[Member]  # type: ignore[assignment]
    default_instance_warmup: int | None = None

    def __init__(self, *, autoscaling_backend: Backend, **kwargs: Any) -> None:
        self.hooks = {hook.name: hook for hook in autoscaling_backend.first_hooks}
        self.refreshes: list[Refresh] = []
        self.owed: list[str] = []  # causes of launches that are due for another reason than size
        self.balancing: Member | None = None  # launched to balance the zones, not in service yet
        # Why the desired capacity changed, as the next activities tell it.
        self.request = "a user request created an AutoScalingGroup"
        self.reason = ""
        self.desired_capacity: int | None = 0
        super().__init__(autoscaling_backend=autoscaling_backend, **kwargs)
        self.request = ""

    # ---- what there is

    def now(self) -> float:
        return self.autoscaling_backend.clock.now()

    @property
    def members(self) -> list[Member]:
        return list(self.instance_states)

    def active_instances(self) -> list[Member]:  # type: ignore[override]
        """Members that count: they are in service, or will be."""
        return [member for member in self.members if member.phase in (PENDING, IN_SERVICE)]

    def transitioning(self) -> list[Member]:
        return [member for member in self.members if member.phase in (PENDING, LEAVING)]

    @property
    def refresh(self) -> Refresh | None:
        """The refresh that goes on."""
        return next((refresh for refresh in self.refreshes if refresh.open), None)

    def runs(self, process: str) -> bool:
        """Whether a process of the group is not suspended."""
        return process not in self._suspended_processes

    # ---- what members are made from

    def own_source(self) -> Source:
        template = self.ec2_launch_template
        if template is None:
            raise ValidationError("The Auto Scaling group has no launch template.")
        return Source(template, str(self.launch_template_version))

    def use(self, source: Source) -> None:
        self.ec2_launch_template = source.template
        self.launch_template_version = self.provided_launch_template_version = source.version

    def is_from(self, member: Member, source: Source) -> bool:
        tags = {tag["key"]: tag["value"] for tag in member.instance.get_tags()}
        made_from = (tags.get(TEMPLATE_TAG, source.template.id), tags.get(VERSION_TAG))
        return made_from == (source.template.id, str(source.number))

    # ---- coming and going

    def launch(self, why: str) -> Member:
        """Start one member, in its own reservation, as AWS does."""
        refresh = self.refresh
        kept = (self.ec2_launch_template, getattr(self, "launch_template_version", None))
        if refresh and refresh.replacing:  # for this launch, moto reads it from here
            self.ec2_launch_template = refresh.source.template
            self.launch_template_version = refresh.source.version
        try:
            reservation = self._run_instance()
        finally:
            self.ec2_launch_template = kept[0]
            if kept[1] is not None:
                self.launch_template_version = kept[1]
        protected = self.new_instances_protected_from_scale_in
        member = Member(reservation.instances[0], PENDING, "Healthy", protected, self)
        self.instance_states.append(member)
        member.activity = self.record(
            f"Launching a new EC2 instance: {member.instance_id}", why, member.zone
        )
        self._begin(member, LAUNCHING)
        return member

    def _run_instance(self) -> Any:
        template = None
        if self.ec2_launch_template:
            version = self.ec2_launch_template.get_version(self.launch_template_version)
            template = {"LaunchTemplateId": version.template.id, "Version": str(version.number)}
        ec2 = self.autoscaling_backend.ec2_backend
        subnets = (self.vpc_zone_identifier or "").split(",")
        places = {
            str(ec2.get_subnet(subnet).availability_zone): subnet for subnet in subnets if subnet
        }
        zone = next_zone(places or self.availability_zones, self._zones_of_those_who_stay())
        subnet = places.get(zone)
        tags = {**self.instance_tags, **self.get_propagated_tags(), ASG_NAME_TAG: self.name}
        return ec2.run_instances(
            self.image_id,
            1,
            self.user_data,
            self.security_groups,
            instance_type=self.instance_type,
            is_instance_type_default=False,
            tags={"instance": tags},
            placement=None if subnet else zone,
            launch_config=self.launch_config,
            launch_template=template,
            subnet_id=subnet,
        )

    def retire(self, member: Member, why: str) -> None:
        """Let one member go; one that goes already does so."""
        if member.phase == LEAVING:
            return
        if member.activity:
            member.activity.finish("Cancelled")
        member.activity = self.record(
            f"Terminating EC2 instance: {member.instance_id}", why, member.zone
        )
        self._begin(member, TERMINATING)

    def _begin(self, member: Member, transition: str) -> None:
        """Let a member wait for its hooks, if it has any."""
        member.lifecycle_state = PENDING if transition == LAUNCHING else LEAVING
        hooks = [hook for hook in self.hooks.values() if hook.transition == transition]
        member.actions = {hook.name: Action(hook, self.now()) for hook in hooks}
        if not hooks:
            self._proceed(member)
            return
        member.lifecycle_state += ":Wait"
        if member.activity:
            member.activity.status = "MidLifecycleAction"

    def _proceed(self, member: Member) -> None:
        if member.activity:
            member.activity.finish()
            member.activity = None
        if member.phase == PENDING:
            member.lifecycle_state = IN_SERVICE
            member.in_service_at = self.now()
        else:
            self.end(member)

    def end(self, member: Member) -> None:
        self.instance_states = [other for other in self.members if other is not member]
        self.autoscaling_backend.ec2_backend.terminate_instances([member.instance_id])

    def complete(self, member: Member, hook: str, result: str, word: str) -> None:
        """End a member's wait for a hook; `word` says how, should it be told."""
        action = member.actions.pop(hook)
        if result == "ABANDON":
            member.actions = {}
            if member.phase == PENDING:
                if member.activity:
                    member.activity.finish(
                        "Cancelled",
                        "Instance failed to complete user's Lifecycle Action: Lifecycle Action "
                        f"with token {action.token} was abandoned: {word}",
                    )
                self.owed.append(activities.REPLACEMENT)
                self.retire(member, at(activities.ABANDONED))
                return
        if not member.actions:
            self._proceed(member)

    def record(self, description: str, why: str, zone: str) -> Activity:
        details = json.dumps({"Availability Zone": zone})
        return self.autoscaling_backend.activities.add(
            Activity(self.name, self.arn, description, why, details)
        )

    # ---- who comes and goes

    def reconcile(self) -> None:
        """Bring the members nearer to what is wanted. Called after each change, and every second.

        What is not possible now is tried again at the next time.
        """
        self._end_waits()
        self._replace_unhealthy()
        if self.refresh and self.runs("InstanceRefresh"):
            self.refresh.step()
        self._fill()
        self._shrink()
        self._balance()

    def goal(self) -> int:
        """How many members are to be active for now."""
        extra = self.refresh.extra() if self.refresh else 0
        if self.balancing:
            waits = self.balancing in self.members and self.balancing.phase == PENDING
            self.balancing = self.balancing if waits else None
        return (self.desired_capacity or 0) + max(extra, int(self.balancing is not None))

    def _end_waits(self) -> None:
        for member in self.members:
            for name, action in list(member.actions.items()):
                if name in member.actions and self.now() >= action.deadline:
                    self.complete(member, name, action.hook.default_result, "Heartbeat Timeout")

    def _replace_unhealthy(self) -> None:
        for member in self.active_instances():
            if member.instance.state in GONE and self.runs("HealthCheck"):
                member.health_status = "Unhealthy"
                member.unhealthy_because = activities.EC2_HEALTH
                if member.phase == PENDING and member.activity:
                    member.activity.finish("Cancelled", activities.DIED_BEFORE_SERVICE)
            if (
                member.health_status == "Unhealthy"
                and self.runs("ReplaceUnhealthy")
                and self.runs("Terminate")
            ):
                self.owed.append(activities.REPLACEMENT)
                self.retire(member, at(member.unhealthy_because))

    def _fill(self) -> None:
        have, goal = len(self.active_instances()), self.goal()
        if have < goal and not self.runs("Launch"):
            return
        usual = cause(
            self.reason,
            at(f"an instance was started {DIFFERENCE}, increasing the capacity")
            + f" from {have} to {goal}.",
        )
        if self.refresh and self.refresh.replacing:
            usual = at(activities.REFRESH_LAUNCH)
        try:
            for _ in range(goal - have):
                why = at(self.owed[0]) if self.owed else usual
                self.launch(why)
                del self.owed[:1]
        except ServiceException as error:
            newest = next(iter(self.autoscaling_backend.activities.of(self.name)), None)
            if newest is None or newest.message != str(error):  # told once, tried every second
                failed = self.record("Launching a new EC2 instance", why, "")
                failed.finish("Failed", str(error))
            return
        self.owed.clear()

    def _shrink(self) -> None:
        have, goal = len(self.active_instances()), self.goal()
        if not self.runs("Terminate"):
            return
        shrink = f"an instance was taken out of service {DIFFERENCE}, shrinking"
        shrink += f" the capacity from {have} to {goal}."
        left = [member for member in self.active_instances() if not member.protected_from_scale_in]
        for _ in range(min(have - goal, len(left))):
            member = self.leaving_order(left)[0]
            left.remove(member)
            why = cause(self.reason, at(shrink), activities.selected(member.instance_id))
            self.retire(member, why)
        if have == goal and not self.balancing:
            self.reason = ""

    def leaving_order(self, members: Iterable[Member]) -> list[Member]:
        """Who leaves first: who is not in service yet, then who stands in the fullest zone.

        Of these who is to be replaced, has the oldest version, is the oldest.
        """
        zones = Counter(member.zone for member in members)
        todo = self.refresh.todo if self.refresh else set()

        def key(member: Member) -> tuple[Any, ...]:
            made_from = int((member.launch_template or {}).get("Version") or 0)
            return (
                member.phase != PENDING,
                member.zone in self.availability_zones,
                -zones[member.zone],
                member.instance_id not in todo,
                made_from,
                member.instance.launch_time,
            )

        return sorted(members, key=key)

    def _zones_of_those_who_stay(self) -> list[str]:
        todo = self.refresh.todo if self.refresh else set()
        return [one.zone for one in self.active_instances() if one.instance_id not in todo]

    def _balance(self) -> None:
        """Launch a member in the emptiest zone, in exchange for one in the fullest.

        The newcomer is first: that the group then has one too many is what `_shrink` mends.
        """
        active = self.active_instances()
        quiet = len(active) == self.desired_capacity and not self.transitioning()
        if not quiet or self.refresh or not self.runs("AZRebalance") or not self.runs("Launch"):
            return
        zones = Counter(dict.fromkeys(self.availability_zones, 0))
        zones.update(self._zones_of_those_who_stay())
        strange = set(zones) - set(self.availability_zones)  # of subnets that it had before
        if max(zones.values()) - min(zones.values()) < 2 and not strange:
            return
        if all(member.protected_from_scale_in for member in active):
            return
        counts = " ".join(str(count) for count in zones.values())
        self.reason = at(
            "instances were launched to balance instances in zones "
            f"{' '.join(sorted(strange or {max(zones, key=lambda zone: zones[zone])}))} with other "
            "zones resulting in more than desired number of instances in the group."
        )
        why = at(
            f"availability zones {' '.join(zones)} had {counts} instances respectively. "
            "An instance was launched to aid in balancing the group's zones."
        )
        self.balancing = self.launch(why)

    # ---- what users ask for

    def set_desired_capacity(self, new_capacity: int | None) -> None:
        low, high = self.min_size or 0, self.max_size or 0
        desired = low if new_capacity is None else new_capacity
        if not low <= desired <= high:
            bound = f"above max value {high}" if desired > high else f"below min value {low}"
            raise ValidationError(
                f"New SetDesiredCapacity value {desired} is {bound} for the AutoScalingGroup."
            )
        if desired != self.desired_capacity:
            request = self.request or "a user request explicitly set group desired capacity"
            change = f"from {self.desired_capacity} to {desired}."
            self.reason = at(f"{request} changing the desired capacity {change}")
        self.desired_capacity = desired
        self.reconcile()

    def update(self, *args: Any, **kwargs: Any) -> None:
        low = kwargs["min_size"] if kwargs["min_size"] is not None else self.min_size
        high = kwargs["max_size"] if kwargs["max_size"] is not None else self.max_size
        desired = kwargs["desired_capacity"]
        if desired is None:
            desired = kwargs["desired_capacity"] = sorted(
                (low or 0, self.desired_capacity or 0, high or 0)
            )[1]
        self.request = (
            "a user request update of AutoScalingGroup constraints to "
            f"min: {low}, max: {high}, desired: {desired}"
        )
        try:
            super().update(*args, **kwargs)
        finally:
            self.request = ""

    def replace_autoscaling_group_instances(
        self, count_needed: int, propagated_tags: dict[str, str]
    ) -> None:
        self.reconcile()

    def terminate(self, member: Member, decrement: bool) -> Activity:
        """Terminate a member because a user asked for it."""
        if member.phase == LEAVING and member.activity:
            return member.activity
        before = self.desired_capacity or 0
        why = (
            f"instance {member.instance_id} was taken out of service in response to a user request"
        )
        if decrement:
            if before <= (self.min_size or 0):
                raise ValidationError(
                    f"Currently, desiredSize equals minSize ({before}). Terminating instance "
                    "without replacement will violate group's min size constraint. Either set "
                    "shouldDecrementDesiredCapacity flag to false or lower group's min size."
                )
            self.desired_capacity = before - 1
            why += f", shrinking the capacity from {before} to {before - 1}"
        else:
            self.owed.append(activities.REPLACEMENT)
        self.retire(member, at(f"{why}."))
        activity = member.activity or self.autoscaling_backend.activities.of(self.name)[0]
        self.reconcile()
        return activity

    def enter_standby(self, members: list[Member], decrement: bool) -> list[Activity]:
        before = self.desired_capacity or 0
        after = before - len(members) if decrement else before
        for member in members:
            if member.lifecycle_state != IN_SERVICE:
                raise ValidationError(f"The instance {member.instance_id} is not in InService.")
        self._check_size(after, f"To place into standby {len(members)} instance")
        told = []
        for number, member in enumerate(members):
            why = (
                f"instance {member.instance_id} was moved to standby in response to a user request"
            )
            if decrement:
                why += f", shrinking the capacity from {before - number} to {before - number - 1}"
            member.lifecycle_state = STANDBY
            moving = f"Moving EC2 instance to Standby: {member.instance_id}"
            told.append(self.record(moving, at(f"{why}."), member.zone))
            told[-1].finish()
        self.desired_capacity = after
        self.reconcile()
        return told

    def exit_standby(self, members: list[Member]) -> list[Activity]:
        before = self.desired_capacity or 0
        for member in members:
            if member.lifecycle_state != STANDBY:
                raise ValidationError(f"The instance {member.instance_id} is not in Standby.")
        self._check_size(before + len(members), f"To exit standby {len(members)} instance")
        told = []
        for number, member in enumerate(members, start=before):
            why = (
                f"instance {member.instance_id} was moved out of standby in response to a user "
                f"request, increasing the capacity from {number} to {number + 1}."
            )
            moving = f"Moving EC2 instance out of Standby: {member.instance_id}"
            member.activity = self.record(moving, at(why), member.zone)
            told.append(member.activity)
            self._begin(member, LAUNCHING)
        self.desired_capacity = before + len(members)
        self.reconcile()
        return told

    def _check_size(self, desired: int, todo: str) -> None:
        if not (self.min_size or 0) <= desired <= (self.max_size or 0):
            raise ValidationError(
                f"AutoScalingGroup {self.name} has min-size={self.min_size}, "
                f"max-size={self.max_size}, and desired-size={self.desired_capacity}. {todo}, "
                "please update the AutoScalingGroup sizes appropriately."
            )

    def start_refresh(self, desired: dict[str, Any], wanted: dict[str, Any]) -> Refresh:
        if self.refresh:
            raise AutoscalingClientError(
                "InstanceRefreshInProgress",
                "An Instance Refresh is already in progress and blocks the execution of this "
                "Instance Refresh.",
            )
        for unknown in ("CheckpointPercentages", "AlarmSpecification"):
            if wanted.get(unknown):
                raise ValidationError(f"{unknown} is not emulated.")
        if "MixedInstancesPolicy" in desired:
            raise ValidationError("MixedInstancesPolicy is not emulated.")
        source = None
        if template := desired.get("LaunchTemplate"):
            source = self.autoscaling_backend.source(template)
        preferences = self._preferences(wanted)
        self.own_source()
        refresh = Refresh(self, source, preferences)
        if preferences.auto_rollback and not refresh.reversible:
            raise ValidationError(
                "AutoRollback needs a desired configuration, and a group that does not use the "
                "$Latest or $Default version of its launch template."
            )
        self.refreshes.insert(0, refresh)
        return refresh

    def _preferences(self, wanted: dict[str, Any]) -> Preferences:
        minimum, maximum = wanted.get("MinHealthyPercentage"), wanted.get("MaxHealthyPercentage")
        if maximum is not None:
            if minimum is None:
                raise ValidationError("MaxHealthyPercentage needs MinHealthyPercentage.")
            if not 100 <= maximum <= 200 or maximum - minimum > 100:
                raise ValidationError(
                    "MaxHealthyPercentage must be 100 to 200, and at most 100 above "
                    "MinHealthyPercentage."
                )
        if minimum is not None and not 0 <= minimum <= 100:
            raise ValidationError("MinHealthyPercentage must be 0 to 100.")
        warmup = wanted.get("InstanceWarmup", self.default_instance_warmup)
        return Preferences(
            min_healthy=90 if minimum is None else minimum,
            max_healthy=maximum,
            warmup=(self.health_check_grace_period or 0) if warmup is None else warmup,
            bake_time=wanted.get("BakeTime", 0),
            skip_matching=wanted.get("SkipMatching", False),
            auto_rollback=wanted.get("AutoRollback", False),
            protected=wanted.get("ScaleInProtectedInstances", "Wait"),
            standby=wanted.get("StandbyInstances", "Wait"),
        )

    def open_refresh(self) -> Refresh:
        if not self.refresh:
            raise AutoscalingClientError(
                "ActiveInstanceRefreshNotFound",
                f"No in progress or pending Instance Refresh found for Auto Scaling group "
                f"{self.name}",
            )
        return self.refresh

    def put_hook(self, hook: Hook) -> None:
        if hook.name not in self.hooks and len(self.hooks) == MOST_HOOKS:
            raise AutoscalingClientError("LimitExceeded", f"At most {MOST_HOOKS} hooks per group.")
        self.hooks[hook.name] = hook

    def delete_hook(self, name: str) -> None:
        """Forget a hook; who waits for it does so no longer."""
        hook = self.hooks.pop(name, None)
        if hook is None:
            raise ValidationError(f"Lifecycle hook not found: {name}")
        result = "ABANDON" if hook.transition == LAUNCHING else "CONTINUE"
        for member in self.members:
            if name in member.actions:
                self.complete(
                    member, name, result, "Lifecycle Action Completed with ABANDON Result"
                )
        self.reconcile()
