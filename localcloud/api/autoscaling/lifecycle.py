"""Lifecycle hooks and actions: what a member of a group waits for, and until when."""

import time
import uuid
from dataclasses import dataclass, field
from typing import Any

LAUNCHING = "autoscaling:EC2_INSTANCE_LAUNCHING"
TERMINATING = "autoscaling:EC2_INSTANCE_TERMINATING"
TRANSITIONS = (LAUNCHING, TERMINATING)
RESULTS = ("CONTINUE", "ABANDON")
LEAST_HEARTBEAT_SECONDS = 30
MOST_HEARTBEAT_SECONDS = 7200
LONGEST_WAIT_SECONDS = 48 * 3600
LONGEST_WAIT_HEARTBEATS = 100


class Clock:
    """Seconds that groups reckon with. `python -m localcloud forward` moves it on."""

    def __init__(self) -> None:
        self.skipped_seconds = 0.0

    def now(self) -> float:
        return time.monotonic() + self.skipped_seconds

    def forward(self, seconds: float) -> None:
        self.skipped_seconds += seconds


@dataclass(frozen=True)
class Hook:
    name: str
    transition: str
    heartbeat_timeout: int = 3600  # seconds
    default_result: str = "ABANDON"
    notification_metadata: str | None = None
    notification_target: str | None = None  # kept and told, but nobody is notified
    role: str | None = None

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
