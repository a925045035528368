"""Auto-scaling groups: `Group.reconcile` decides which members come and go.

It spreads members over the zones, replaces the unhealthy ones, lets instance refreshes go on, and
brings the group to the size that users asked for.
"""

from __future__ import annotations

from collections import Counter
from typing import Any

from moto.autoscaling.exceptions import AutoscalingClientError, ValidationError
from moto.core.exceptions import ServiceException

from localcloud.api.autoscaling import activities
from localcloud.api.autoscaling.activities import DIFFERENCE, Activity, at, cause
from localcloud.api.autoscaling.lifecycle import LAUNCHING
from localcloud.api.autoscaling.members import (
    IN_SERVICE,
    LEAVING,
    PENDING,
    STANDBY,
    Member,
    Members,
)
from localcloud.api.autoscaling.refresh import Preferences, Refresh

GONE = ("shutting-down", "terminated", "stopping", "stopped")  # states of an instance


class Group(Members):
    """A group that decides which members come and go, and does what users ask for."""

    default_instance_warmup: int | None = None

    def __init__(self, **kwargs: Any) -> None:
        self.refreshes: list[Refresh] = []
        self.balancing: Member | None = None  # launched to balance the zones, not in service yet
        # Why the desired capacity changed, as the next activities tell it.
        self.request = "a user request created an AutoScalingGroup"
        self.reason = ""
        super().__init__(**kwargs)
        self.request = ""

    @property
    def refresh(self) -> Refresh | None:
        """The refresh that goes on."""
        return next((refresh for refresh in self.refreshes if refresh.open), None)

    @property
    def warmup(self) -> int:
        """Seconds that newcomers of a refresh warm up for, where it does not say so itself."""
        if self.default_instance_warmup is not None:
            return self.default_instance_warmup
        return self.health_check_grace_period or 0

    def runs(self, process: str) -> bool:
        """Whether a process of the group is not suspended."""
        return process not in self._suspended_processes

    # ---- who comes and goes

    def reconcile(self) -> None:
        """Bring the members nearer to what is wanted. Called after each change, and every second.

        What is not possible now is tried again the next time.
        """
        self.complete_overdue()
        self._replace_unhealthy()
        if self.refresh and self.runs("InstanceRefresh"):
            self.refresh.step()
        self._fill()
        self._shrink()
        self._balance()

    def goal(self) -> int:
        """Return how many members should be active for now."""
        extra = self.refresh.extra() if self.refresh else 0
        if self.balancing:
            waits = self.balancing in self.members and self.balancing.phase == PENDING
            self.balancing = self.balancing if waits else None
        return (self.desired_capacity or 0) + max(extra, int(self.balancing is not None))

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
                self._launch(why)
                del self.owed[:1]
        except ServiceException as error:
            newest = next(iter(self.ground.activities.of(self.name)), None)
            if newest is None or newest.message != str(error):  # recorded once, tried every second
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
        todo = self.refresh.todo if self.refresh else set()
        left = [member for member in self.active_instances() if not member.protected_from_scale_in]
        for _ in range(min(have - goal, len(left))):
            member = self.leaving_order(left, todo)[0]
            left.remove(member)
            why = cause(self.reason, at(shrink), activities.selected(member.instance_id))
            self.retire(member, why)
        if have == goal and not self.balancing:
            self.reason = ""

    def _launch(self, why: str) -> Member:
        refresh = self.refresh
        source = refresh.source if refresh and refresh.replacing else None
        return self.launch(why, self._zones_of_those_who_stay(), source)

    def _zones_of_those_who_stay(self) -> list[str]:
        todo = self.refresh.todo if self.refresh else set()
        return [one.zone for one in self.active_instances() if one.instance_id not in todo]

    def _balance(self) -> None:
        """Launch a member in the emptiest zone, in exchange for one in the fullest.

        The newcomer is first. Once it is in service the group has one too many, and `_shrink`
        retires it.
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
        self.balancing = self._launch(why)

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
        activity = member.activity or self.ground.activities.of(self.name)[0]
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
            self.begin(member, LAUNCHING)
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
        if "MixedInstancesPolicy" in desired:
            raise ValidationError("MixedInstancesPolicy is not emulated.")
        source = None
        if template := desired.get("LaunchTemplate"):
            source = self.ground.source(template)
        preferences = Preferences.of(wanted, self.warmup)
        refresh = Refresh(self, source, preferences)
        if preferences.auto_rollback and not refresh.reversible:
            raise ValidationError(
                "AutoRollback needs a desired configuration, and a group that does not use the "
                "$Latest or $Default version of its launch template."
            )
        self.refreshes.insert(0, refresh)
        return refresh

    def open_refresh(self) -> Refresh:
        if not self.refresh:
            raise AutoscalingClientError(
                "ActiveInstanceRefreshNotFound",
                f"No in progress or pending Instance Refresh found for Auto Scaling group "
                f"{self.name}",
            )
        return self.refresh
