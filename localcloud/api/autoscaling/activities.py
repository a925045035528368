"""Scaling activities: what a group did and why, in AWS's words."""

import uuid
from collections import deque
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

KEPT = 10_000  # activities; AWS keeps those of six weeks
DIFFERENCE = "in response to a difference between desired and actual capacity"
REPLACEMENT = (
    "an instance was launched in response to an unhealthy instance needing to be replaced."
)
REFRESH_LAUNCH = "an instance was launched in response to an instance refresh."
REFRESH_TERMINATION = "an instance was taken out of service in response to an instance refresh."
USER_HEALTH = "an instance was taken out of service in response to a user health-check."
EC2_HEALTH = (
    "an instance was taken out of service in response to an EC2 health check "
    "indicating it has been terminated or stopped."
)
# AWS's words for this one are not known.
ABANDONED = "an instance was taken out of service because its launch was abandoned."
DIED_BEFORE_SERVICE = (
    "Instance became unhealthy while waiting for instance to be in InService state. "
    "Termination Reason: Client.InstanceInitiatedShutdown: Instance initiated shutdown"
)


def at(text: str) -> str:
    """Return one sentence of a cause, with the time of now before it."""
    return f"At {datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ} {text}"


def cause(*sentences: str) -> str:
    """Join the sentences of a cause, as AWS does; empty ones are left out."""
    return "  ".join(sentence for sentence in sentences if sentence)


def selected(instance_id: str) -> str:
    return at(f"instance {instance_id} was selected for termination.")


@dataclass
class Activity:
    """One launch, termination or move of a member; fields as in DescribeScalingActivities."""

    group: str
    group_arn: str
    description: str
    cause: str
    details: str  # JSON
    status: str = "InProgress"
    message: str = ""
    progress: int = 50  # percent
    id: str = field(default_factory=lambda: str(uuid.uuid4()))
    started_at: datetime = field(default_factory=lambda: datetime.now(UTC))
    finished_at: datetime | None = None

    def finish(self, status: str = "Successful", message: str = "") -> None:
        """Finish it; nothing happens when it is finished already."""
        if self.finished_at is not None:
            return
        self.status, self.message, self.progress = status, message, 100
        self.finished_at = datetime.now(UTC)
        if message:
            self.description += f".  Status Reason: {message}"

    def describe(self) -> dict[str, Any]:
        return {
            "ActivityId": self.id,
            "AutoScalingGroupName": self.group,
            "AutoScalingGroupARN": self.group_arn,
            "Description": self.description,
            "Cause": self.cause,
            "StartTime": self.started_at,
            "EndTime": self.finished_at,
            "StatusCode": self.status,
            "StatusMessage": self.message or None,
            "Progress": self.progress,
            "Details": self.details,
        }


class Activities:
    """The activities of all groups, the newest first."""

    def __init__(self) -> None:
        self.known: deque[Activity] = deque(maxlen=KEPT)

    def add(self, activity: Activity) -> Activity:
        self.known.appendleft(activity)
        return activity

    def of(self, group: str) -> list[Activity]:
        return [activity for activity in self.known if activity.group == group]
