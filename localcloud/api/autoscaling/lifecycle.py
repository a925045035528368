"""Lifecycle hooks and actions: what a member of a group waits for, and until when."""

from __future__ import annotations

import uuid
from dataclasses import dataclass, field
from typing import Any

from moto.autoscaling.exceptions import ValidationError

LAUNCHING = "autoscaling:EC2_INSTANCE_LAUNCHING"
TERMINATING = "autoscaling:EC2_INSTANCE_TERMINATING"
TRANSITIONS = (LAUNCHING, TERMINATING)
RESULTS = ("CONTINUE", "ABANDON")
LEAST_HEARTBEAT_SECONDS = 30
MOST_HEARTBEAT_SECONDS = 7200
LONGEST_WAIT_SECONDS = 48 * 3600
LONGEST_WAIT_HEARTBEATS = 100
MOST_HOOKS = 50  # of one group


@dataclass(frozen=True)
class Hook:
    """A lifecycle hook of a group; fields as in PutLifecycleHook."""

    name: str
    transition: str
    heartbeat_timeout: int = 3600  # seconds
    default_result: str = "ABANDON"
    notification_metadata: str | None = None
    notification_target: str | None = None  # kept and described, but nobody is notified
    role: str | None = None

    @classmethod
    def of(cls, params: dict[str, Any], old: Hook | None = None) -> Hook:
        """Return the hook that a request describes; what it does not say stays as in `old`.

        Raises ValidationError.
        """
        transition = params.get("LifecycleTransition", old.transition if old else None)
        if transition not in TRANSITIONS:
            raise ValidationError(f"LifecycleTransition must be one of {TRANSITIONS}.")
        seconds = int(params.get("HeartbeatTimeout", old.heartbeat_timeout if old else 3600))
        low, high = LEAST_HEARTBEAT_SECONDS, MOST_HEARTBEAT_SECONDS
        if not low <= seconds <= high:
            raise ValidationError(f"HeartbeatTimeout must be {low} to {high} seconds.")
        result = params.get("DefaultResult", old.default_result if old else "ABANDON")
        if result not in RESULTS:
            raise ValidationError("DefaultResult must be CONTINUE or ABANDON.")
        return cls(
            params["LifecycleHookName"],
            transition,
            seconds,
            result,
            params.get("NotificationMetadata", old.notification_metadata if old else None),
            params.get("NotificationTargetARN", old.notification_target if old else None),
            params.get("RoleARN", old.role if old else None),
        )

    @property
    def global_timeout(self) -> int:
        """Seconds after which no heartbeat helps any more."""
        return min(LONGEST_WAIT_SECONDS, LONGEST_WAIT_HEARTBEATS * self.heartbeat_timeout)

    def describe(self, group: str) -> dict[str, Any]:
        return {
            "LifecycleHookName": self.name,
            "AutoScalingGroupName": group,
            "LifecycleTransition": self.transition,
            "NotificationTargetARN": self.notification_target,
            "RoleARN": self.role,
            "NotificationMetadata": self.notification_metadata,
            "HeartbeatTimeout": self.heartbeat_timeout,
            "GlobalTimeout": self.global_timeout,
            "DefaultResult": self.default_result,
        }


@dataclass
class Action:
    """One member's wait for one hook. Times are those of the groups' clock."""

    hook: Hook
    began: float
    token: str = field(default_factory=lambda: str(uuid.uuid4()))
    beat: float = field(init=False)  # the last heartbeat

    def __post_init__(self) -> None:
        self.beat = self.began

    @property
    def deadline(self) -> float:
        last = self.began + self.hook.global_timeout
        return min(self.beat + self.hook.heartbeat_timeout, last)
