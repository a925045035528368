"""Instance refreshes: a group's members are replaced, a few at a time."""

from __future__ import annotations

import math
import uuid
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from moto.autoscaling.exceptions import ValidationError

from localcloud.api.autoscaling.activities import REFRESH_TERMINATION, at, cause, selected
from localcloud.api.autoscaling.ground import Source
from localcloud.api.autoscaling.members import IN_SERVICE, STANDBY, Member, Members

PATIENCE_SECONDS = 3600  # without any progress, then the refresh fails
OPEN = ("Pending", "InProgress", "Baking", "RollbackInProgress", "Cancelling")
NAMED_VERSIONS = ("$Latest", "$Default")


@dataclass(frozen=True)
class Bounds:
    """How many members may be in service while some are replaced."""

    low: int  # healthy and warmed up
    high: int  # pending or in service

    @classmethod
    def of(cls, desired: int, minimum: int, maximum: int | None) -> Bounds:
        """Return the bounds for a desired capacity and the percentages of it that must be kept.

        `maximum` None: not given, which is not the same as 100. Where the percentages leave no
        room, one member at a time is replaced: with a maximum the newcomer is first, without one
        the old member goes at the same time as the new one comes.
        """
        low = math.ceil(desired * minimum / 100)
        if maximum is None:
            return cls(min(low, max(desired - 1, 0)), desired)
        return cls(low, max(math.floor(desired * maximum / 100), low + 1))


@dataclass(frozen=True)
class Preferences:
    """How a refresh goes about it; fields as in RefreshPreferences."""

    min_healthy: int = 90  # percent, as the next
    max_healthy: int | None = None
    warmup: int = 0  # seconds, as the bake time
    bake_time: int = 0
    skip_matching: bool = False
    auto_rollback: bool = False
    protected: str = "Wait"
    standby: str = "Wait"

    @classmethod
    def of(cls, wanted: dict[str, Any], warmup: int) -> Preferences:
        """Return what a request says; `warmup` (seconds) counts where it says none.

        Raises ValidationError.
        """
        for unknown in ("CheckpointPercentages", "AlarmSpecification"):
            if wanted.get(unknown):
                raise ValidationError(f"{unknown} is not emulated.")
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
        return cls(
            min_healthy=90 if minimum is None else minimum,
            max_healthy=maximum,
            warmup=wanted.get("InstanceWarmup", warmup),
            bake_time=wanted.get("BakeTime", 0),
            skip_matching=wanted.get("SkipMatching", False),
            auto_rollback=wanted.get("AutoRollback", False),
            protected=wanted.get("ScaleInProtectedInstances", "Wait"),
            standby=wanted.get("StandbyInstances", "Wait"),
        )

    def describe(self) -> dict[str, Any]:
        return {
            "MinHealthyPercentage": self.min_healthy,
            "MaxHealthyPercentage": self.max_healthy,
            "InstanceWarmup": self.warmup,
            "BakeTime": self.bake_time,
            "SkipMatching": self.skip_matching,
            "AutoRollback": self.auto_rollback,
            "ScaleInProtectedInstances": self.protected,
            "StandbyInstances": self.standby,
        }


class Refresh:
    """One refresh of one group.

    It retires members. The group calls `step` and launches those that come in their place: from
    `source`, and so many that it has `extra` members above its desired capacity.
    """

    def __init__(self, group: Members, desired: Source | None, preferences: Preferences) -> None:
        self.group = group
        self.preferences = preferences
        self.desired = desired
        self.before = group.own_source()
        self.source = desired or self.before
        self.id = str(uuid.uuid4())
        self.status = "Pending"
        self.reason = ""
        self.started_at = datetime.now(UTC)
        self.finished_at: datetime | None = None
        # Ids of instances: those that were there before, and those that are to be replaced.
        self.old = {member.instance_id for member in group.active_instances()}
        self.todo = {
            member.instance_id
            for member in group.active_instances()
            if not (preferences.skip_matching and group.is_from(member, self.source))
            and not (preferences.protected == "Ignore" and member.protected_from_scale_in)
        }
        self.total = len(self.todo)
        self.rollback: dict[str, Any] = {}
        self.last_left = self.total
        self.last_progress = group.now()
        self.bake_until = 0.0
        self.told: tuple[int, int] | None = None  # progress when it finished

    @property
    def open(self) -> bool:
        return self.status in OPEN

    @property
    def replacing(self) -> bool:
        return self.status in ("InProgress", "RollbackInProgress")

    @property
    def bounds(self) -> Bounds:
        wanted = self.preferences
        return Bounds.of(self.group.desired_capacity or 0, wanted.min_healthy, wanted.max_healthy)

    def extra(self) -> int:
        """Return how many members the group should have above its desired capacity for now."""
        desired = self.group.desired_capacity or 0
        if self.status == "Cancelling":  # members that are there already may stay
            return max(0, len(self.group.active_instances()) - desired)
        return min(self.bounds.high - desired, len(self.todo)) if self.replacing else 0

    def left(self) -> int:
        """Return how many members are not updated, that is, replaced by one that is warm."""
        new = [one for one in self.group.active_instances() if one.instance_id not in self.old]
        return max(len(self.todo), self.total - sum(map(self.is_warm, new)))

    def percentage(self) -> int:
        """Return how much is done; a rollback counts down."""
        if not self.total:
            return 100
        if self.rollback:
            return 100 * min(len(self.todo), self.total) // self.total
        return 100 * (self.total - self.left()) // self.total

    def is_warm(self, member: Member) -> bool:
        """Whether a member is healthy and in service, a newcomer for the time of the warm-up."""
        if member.lifecycle_state != IN_SERVICE or member.health_status != "Healthy":
            return False
        if member.instance_id in self.old:
            return True
        return self.group.now() - member.in_service_at >= self.preferences.warmup

    def step(self) -> None:
        """Do what can be done now; the group calls again."""
        if self.status == "Pending":
            self.status = "InProgress"
        active = self.group.active_instances()
        self.todo &= {member.instance_id for member in active}
        if self.status == "Cancelling":
            if not self.group.transitioning():
                self.finish("Cancelled")
        elif self.status == "Baking":
            if self.group.now() >= self.bake_until:
                self.succeed()
        elif not self.todo and len(active) >= (self.group.desired_capacity or 0) and self.settled():
            self.complete()
        else:
            self.replace()
            self.notice_progress()

    def settled(self) -> bool:
        """Whether all members are warm, and none is in standby that has to be waited for."""
        standby = [one for one in self.group.members if one.lifecycle_state == STANDBY]
        if standby and self.preferences.standby == "Wait":
            return False
        return all(self.is_warm(member) for member in self.group.active_instances())

    def replace(self) -> None:
        """Retire members that are to be replaced, as many as the bounds allow."""
        if self.preferences.standby == "Terminate":
            for member in self.group.members:
                if member.lifecycle_state == STANDBY:
                    self.retire(member)
        warm = sum(self.is_warm(member) for member in self.group.active_instances())
        while candidates := [
            member
            for member in self.group.active_instances()
            if member.instance_id in self.todo
            and not (self.preferences.protected == "Wait" and member.protected_from_scale_in)
        ]:
            # A member that is not warm does no work yet, so it can go whatever the bounds are.
            member = min(self.group.leaving_order(candidates, self.todo), key=self.is_warm)
            if self.is_warm(member):
                if warm - 1 < self.bounds.low:
                    break
                warm -= 1
            self.retire(member)

    def retire(self, member: Member) -> None:
        self.todo.discard(member.instance_id)
        self.group.retire(member, cause(at(REFRESH_TERMINATION), selected(member.instance_id)))

    def notice_progress(self) -> None:
        """Fail, or go back, when nothing has been replaced for too long."""
        now = self.group.now()
        if (left := self.left()) != self.last_left:
            self.last_left, self.last_progress = left, now
        if now - self.last_progress <= PATIENCE_SECONDS:
            return
        reason = f"No instance was replaced for {PATIENCE_SECONDS} seconds."
        if self.status == "RollbackInProgress":
            self.finish("RollbackFailed", reason)
        elif self.preferences.auto_rollback and self.reversible:
            self.roll_back(reason)
        else:
            self.finish("Failed", reason)

    def complete(self) -> None:
        """All are replaced: wait for the bake time if there is one, else finish."""
        if self.status == "RollbackInProgress":
            self.finish("RollbackSuccessful")
        elif self.preferences.bake_time:
            self.status = "Baking"
            self.bake_until = self.group.now() + self.preferences.bake_time
        else:
            self.succeed()

    def succeed(self) -> None:
        if self.desired:
            self.group.use(self.desired)
        self.finish("Successful")

    def progress(self) -> tuple[int, int]:
        """Return the percentage complete, and the number of members that are not updated."""
        if self.rollback:
            return self.percentage(), int(self.rollback["InstancesToUpdateOnRollback"])
        return self.percentage(), self.left()

    def finish(self, status: str, reason: str = "") -> None:
        self.told = (100, 0) if status == "Successful" else self.progress()
        self.status = status
        self.reason = reason or self.reason
        self.finished_at = datetime.now(UTC)

    def cancel(self) -> None:
        self.status = "Cancelling"
        self.reason = "Cancelled due to user request."

    @property
    def reversible(self) -> bool:
        """AWS: there is nothing to go back to without two configurations that stay the same."""
        return self.desired is not None and self.before.version not in NAMED_VERSIONS

    def roll_back(self, reason: str) -> None:
        """Replace all members that are not made from what the group was made from before."""
        self.rollback = {
            "RollbackReason": reason,
            "RollbackStartTime": datetime.now(UTC),
            "PercentageCompleteOnRollback": self.percentage(),
            "InstancesToUpdateOnRollback": self.left(),
        }
        self.status, self.reason = "RollbackInProgress", reason
        active = self.group.active_instances()
        self.source = self.before
        self.todo = {one.instance_id for one in active if not self.group.is_from(one, self.source)}
        self.old = {member.instance_id for member in active}
        self.last_progress = self.group.now()

    def describe(self) -> dict[str, Any]:
        percentage, left = self.told or self.progress()
        return {
            "InstanceRefreshId": self.id,
            "AutoScalingGroupName": self.group.name,
            "Status": self.status,
            "StatusReason": self.reason or None,
            "StartTime": self.started_at,
            "EndTime": self.finished_at,
            "PercentageComplete": percentage,
            "InstancesToUpdate": left,
            "Preferences": self.preferences.describe(),
            "DesiredConfiguration": (
                {"LaunchTemplate": self.desired.describe()} if self.desired else None
            ),
            "RollbackDetails": self.rollback or None,
            "Strategy": "Rolling",
        }
