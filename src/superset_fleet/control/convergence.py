"""What the modules that provision share: read, plan, apply, read back."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from ..cloud.client import AwsError, explained

# AWS may not know for some seconds what it has just made, nor tell what was just changed.
SETTLING_SECONDS = 60.0
PAUSE_SECONDS = 1.0


@dataclass(frozen=True)
class Step:
    """One change of one object. What it is changed to may be secret, and is never shown."""

    verb: str
    name: str
    value: Any = field(default=None, repr=False)

    def __str__(self) -> str:
        return f"{self.verb} {self.name}"


class Resources(Protocol):
    """The objects of one kind in the cloud."""

    def read(self) -> Mapping[str, Any]:
        """Return what there is, by name."""

    def apply(self, step: Step) -> None:
        """Do one step."""


def converge(
    resources: Resources,
    plan: Callable[[Mapping[str, Any]], list[Step]],
    region: str,
    check_mode: bool,
    settling_seconds: float = SETTLING_SECONDS,
) -> tuple[Mapping[str, Any], list[Step], Mapping[str, Any]]:
    """Bring objects to what `plan` wants of them; return before, the steps, after.

    In check mode nothing is done, and after is as before. Raises AwsError, which names the step.
    """
    with explained(region):
        before = resources.read()
    steps = plan(before)
    if check_mode or not steps:
        return before, steps, before
    deadline = time.monotonic() + settling_seconds
    for step in steps:
        _patiently(resources, step, region, deadline)
    while True:
        with explained(region):
            after = resources.read()
        left = plan(after)
        if not left:
            return before, steps, after
        if time.monotonic() >= deadline:
            told = ", ".join(map(str, left))
            raise AwsError(
                f"region {region}: {told}: was done, and {settling_seconds:.0f} s later the cloud"
                " does not show it: does something else change the same?"
            )
        time.sleep(PAUSE_SECONDS)


def _patiently(resources: Resources, step: Step, region: str, deadline: float) -> None:
    """Do a step, again while what it needs is not found yet."""
    while True:
        try:
            with explained(region):
                resources.apply(step)
        except AwsError as error:
            late = error.code.endswith("NotFound") or error.code == "NoSuchEntity"
            if late and time.monotonic() < deadline:
                time.sleep(PAUSE_SECONDS)
                continue
            raise AwsError(f"{step}: {error}") from error.__cause__
        return


def tag_list(tags: Mapping[str, str]) -> list[dict[str, str]]:
    """Return tags as AWS wants them."""
    return [{"Key": key, "Value": value} for key, value in sorted(tags.items())]


def tag_steps(name: str, current: Mapping[str, str], wanted: Mapping[str, str]) -> list[Step]:
    """Return the steps from some tags to others."""
    steps = []
    if new := {key: value for key, value in wanted.items() if current.get(key) != value}:
        steps.append(Step("tag", name, new))
    if old := sorted(current.keys() - wanted.keys()):
        steps.append(Step("untag", name, old))
    return steps
