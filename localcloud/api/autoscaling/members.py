"""A group's members: how one comes, waits for lifecycle hooks, and goes.

moto's members are in service or gone. Here each comes by `Members.launch` and goes by
`Members.retire`, waits for the hooks of that transition, and is told as a scaling activity.
"""

from __future__ import annotations

import contextlib
import json
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Sequence
from contextvars import ContextVar
from typing import Any, ClassVar

from moto.autoscaling.exceptions import AutoscalingClientError, ValidationError
from moto.autoscaling.models import ASG_NAME_TAG, FakeAutoScalingGroup, InstanceState
from moto.ec2.models.instances import Reservation

from localcloud.api.autoscaling import activities
from localcloud.api.autoscaling.activities import Activity, at
from localcloud.api.autoscaling.ground import Ground, Source
from localcloud.api.autoscaling.lifecycle import LAUNCHING, MOST_HOOKS, TERMINATING, Action, Hook

VERSION_TAG = "aws:ec2launchtemplate:version"
TEMPLATE_TAG = "aws:ec2launchtemplate:id"
PENDING, IN_SERVICE, STANDBY, LEAVING = "Pending", "InService", "Standby", "Terminating"

# The hooks of the group that is being made: moto drops them on their way to its constructor.
first_hooks: ContextVar[Sequence[Hook]] = ContextVar("first_hooks", default=())


class Member(InstanceState):
    """An instance in a group."""

    auto_scaling_group: Members

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.actions: dict[str, Action] = {}  # that it waits for: name of the hook → action
        self.activity: Activity | None = None  # its launch or termination, while that lasts
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
    """Return the zone for a newcomer: the one that is `used` least, the first of equals.

    `used` has the zone of each member.
    """
    members = Counter(used)
    return min(zones, key=lambda zone: members[zone])


class Members(FakeAutoScalingGroup):
    """A group that does as it is told: it launches and retires members, and keeps their hooks."""

    ground: ClassVar[Ground]
    instance_states: list[Member]  # type: ignore[assignment]

    def __init__(self, **kwargs: Any) -> None:
        self.hooks = {hook.name: hook for hook in first_hooks.get()}
        self.owed: list[str] = []  # causes of launches that are due for another reason than size
        self.desired_capacity: int | None = 0
        super().__init__(**kwargs)

    # ---- who is there

    def now(self) -> float:
        return self.ground.clock.now()

    @property
    def members(self) -> list[Member]:
        return list(self.instance_states)

    def active_instances(self) -> list[Member]:  # type: ignore[override]
        """Return the members that count: they are in service, or will be."""
        return [member for member in self.members if member.phase in (PENDING, IN_SERVICE)]

    def transitioning(self) -> list[Member]:
        """Return the members that are on their way in or out."""
        return [member for member in self.members if member.phase in (PENDING, LEAVING)]

    def leaving_order(
        self, members: Sequence[Member], to_replace: Collection[str] = ()
    ) -> list[Member]:
        """Sort members, those first that should leave first. `to_replace`: ids of instances.

        First go those that are not in service yet, then those in zones that the group has left,
        then those in the fullest zone. Of these first the ones to replace, then the ones made from
        the oldest version, then the oldest.
        """
        zones = Counter(member.zone for member in members)

        def key(member: Member) -> tuple[Any, ...]:
            made_from = int((member.launch_template or {}).get("Version") or 0)
            return (
                member.phase != PENDING,
                member.zone in self.availability_zones,
                -zones[member.zone],
                member.instance_id not in to_replace,
                made_from,
                member.instance.launch_time,
            )

        return sorted(members, key=key)

    # ---- what members are made from

    def own_source(self) -> Source:
        """Return what the group itself says. Raises ValidationError when that is no template."""
        template = self.ec2_launch_template
        if template is None:
            raise ValidationError("The Auto Scaling group has no launch template.")
        return Source(template, str(self.launch_template_version))

    def use(self, source: Source) -> None:
        """Make members from `source` from now on."""
        self.ec2_launch_template = source.template
        self.launch_template_version = self.provided_launch_template_version = source.version

    def is_from(self, member: Member, source: Source) -> bool:
        tags = {tag["key"]: tag["value"] for tag in member.instance.get_tags()}
        made_from = (tags.get(TEMPLATE_TAG, source.template.id), tags.get(VERSION_TAG))
        return made_from == (source.template.id, str(source.number))

    @contextlib.contextmanager
    def _made_from(self, source: Source | None) -> Iterator[None]:
        """Let moto find `source` where it looks for the group's own; None changes nothing."""
        kept = (self.ec2_launch_template, getattr(self, "launch_template_version", None))
        if source:
            self.ec2_launch_template = source.template
            self.launch_template_version = source.version
        try:
            yield
        finally:
            self.ec2_launch_template = kept[0]
            if kept[1] is not None:
                self.launch_template_version = kept[1]

    # ---- one comes, one goes

    def launch(self, why: str, used: Iterable[str], source: Source | None = None) -> Member:
        """Start one member, in its own reservation, as AWS does.

        `why` is the activity's cause. `used` has the zone of each member that the newcomer should
        keep its distance from. `source`: what it is made from; None = what the group says.
        """
        with self._made_from(source):
            reservation = self._run_instance(used)
        protected = self.new_instances_protected_from_scale_in
        member = Member(reservation.instances[0], PENDING, "Healthy", protected, self)
        self.instance_states.append(member)
        member.activity = self.record(
            f"Launching a new EC2 instance: {member.instance_id}", why, member.zone
        )
        self.begin(member, LAUNCHING)
        return member

    def _run_instance(self, used: Iterable[str]) -> Reservation:
        template = None
        if self.ec2_launch_template:
            version = self.ec2_launch_template.get_version(self.launch_template_version)
            template = {"LaunchTemplateId": version.template.id, "Version": str(version.number)}
        ec2 = self.ground.ec2
        subnets = (self.vpc_zone_identifier or "").split(",")
        places = {
            str(ec2.get_subnet(subnet).availability_zone): subnet for subnet in subnets if subnet
        }
        zone = next_zone(places or self.availability_zones, used)
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
        """Let one member go; nothing happens when it is on its way out already."""
        if member.phase == LEAVING:
            return
        if member.activity:
            member.activity.finish("Cancelled")
        member.activity = self.record(
            f"Terminating EC2 instance: {member.instance_id}", why, member.zone
        )
        self.begin(member, TERMINATING)

    def remove(self, member: Member) -> None:
        """Take a member out of the group at once, and terminate its instance."""
        self.instance_states = [other for other in self.members if other is not member]
        self.ground.ec2.terminate_instances([member.instance_id])

    def record(self, description: str, why: str, zone: str) -> Activity:
        details = json.dumps({"Availability Zone": zone})
        return self.ground.activities.add(Activity(self.name, self.arn, description, why, details))

    # ---- hooks

    def begin(self, member: Member, transition: str) -> None:
        """Begin a transition: the member waits for the hooks of it, if there are any."""
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
        """Finish a member's transition."""
        if member.activity:
            member.activity.finish()
            member.activity = None
        if member.phase == PENDING:
            member.lifecycle_state = IN_SERVICE
            member.in_service_at = self.now()
        else:
            self.remove(member)

    def complete(self, member: Member, hook: str, result: str, how: str) -> None:
        """Complete a member's wait for a hook.

        `how` it came to that is told by the activity of a launch that is abandoned.
        """
        action = member.actions.pop(hook)
        if result == "ABANDON":
            member.actions = {}
            if member.phase == PENDING:
                if member.activity:
                    member.activity.finish(
                        "Cancelled",
                        "Instance failed to complete user's Lifecycle Action: Lifecycle Action "
                        f"with token {action.token} was abandoned: {how}",
                    )
                self.owed.append(activities.REPLACEMENT)
                self.retire(member, at(activities.ABANDONED))
                return
        if not member.actions:
            self._proceed(member)

    def complete_overdue(self) -> None:
        """Give the default result to each wait that no heartbeat has prolonged in time."""
        for member in self.members:
            for name, action in list(member.actions.items()):
                if name in member.actions and self.now() >= action.deadline:
                    self.complete(member, name, action.hook.default_result, "Heartbeat Timeout")

    def put_hook(self, hook: Hook) -> None:
        """Add or change a hook. Raises AutoscalingClientError when there are too many."""
        if hook.name not in self.hooks and len(self.hooks) == MOST_HOOKS:
            raise AutoscalingClientError("LimitExceeded", f"At most {MOST_HOOKS} hooks per group.")
        self.hooks[hook.name] = hook

    def delete_hook(self, name: str) -> None:
        """Forget a hook; members that wait for it go on. Raises ValidationError."""
        hook = self.hooks.pop(name, None)
        if hook is None:
            raise ValidationError(f"Lifecycle hook not found: {name}")
        result = "ABANDON" if hook.transition == LAUNCHING else "CONTINUE"
        how = "Lifecycle Action Completed with ABANDON Result"
        for member in self.members:
            if name in member.actions:
                self.complete(member, name, result, how)
