"""Lifecycle hooks: members wait before they are in service, and before they go.

Docstrings name the page of Amazon EC2 Auto Scaling's user guide, or the action of its API
reference, that says so.
"""

import json
from collections.abc import Callable

import pytest
from botocore.exceptions import ClientError

from tests.localcloud.conftest import Group, LocalCloud, wait

NewGroup = Callable[..., Group]
URL = "http://169.254.169.254/latest"
TOKEN = f'$(curl -s -X PUT -H "X-aws-ec2-metadata-token-ttl-seconds: 60" {URL}/api/token)'


def launching(new_group: NewGroup, **hook: object) -> tuple[Group, str]:
    """A group with one member that waits for the hook `launch`."""
    group = new_group(DesiredCapacity=0)
    group.hook("launch", "LAUNCHING", **hook)
    group.scale(1)
    return group, group.names()[0]


def leaving(new_group: NewGroup, **hook: object) -> tuple[Group, str]:
    """A group whose only member waits for the hook `leave`."""
    group = new_group(DesiredCapacity=1)
    group.hook("leave", "TERMINATING", **hook)
    group.scale(0)
    return group, group.names()[0]


def test_a_newcomer_waits_for_its_hook(new_group: NewGroup) -> None:
    """How lifecycle hooks work: Pending:Wait, then InService."""
    group, name = launching(new_group)
    assert group.states() == {"Pending:Wait": 1}
    assert group.activities()[0]["StatusCode"] == "MidLifecycleAction"
    assert group.cloud.instance(name)["State"]["Name"] == "running"
    group.complete("launch", name)
    assert group.states() == {"InService": 1}
    assert group.activities()[0]["StatusCode"] == "Successful"


def test_a_leaver_waits_for_its_hook(new_group: NewGroup) -> None:
    """How lifecycle hooks work: Terminating:Wait, then terminated."""
    group, name = leaving(new_group)
    assert group.states() == {"Terminating:Wait": 1}
    assert group.cloud.instance(name)["State"]["Name"] == "running"
    group.complete("leave", name)
    assert group.members() == []
    assert group.cloud.instance(name)["State"]["Name"] == "terminated"


def test_a_leaver_that_waits_does_not_count(new_group: NewGroup) -> None:
    """Amazon EC2 Auto Scaling instance lifecycle: who terminates is no capacity any more."""
    group = new_group()
    group.hook("leave", "TERMINATING")
    lost = group.names()[0]
    group.api.set_instance_health(InstanceId=lost, HealthStatus="Unhealthy")
    assert group.states() == {"InService": 3, "Terminating:Wait": 1}
    group.scale(4)
    assert group.states() == {"InService": 4, "Terminating:Wait": 1}
    group.cloud.ec2.terminate_instances(InstanceIds=[lost])  # its power is cut, it waits still
    assert group.names("Terminating:Wait") == [lost]


def test_an_action_is_completed_by_its_token(new_group: NewGroup) -> None:
    """CompleteLifecycleAction: LifecycleActionToken identifies the action."""
    group, name = launching(new_group)
    report = json.loads(group.cloud.command("status", "--json").stdout)
    [token] = [wait["token"] for wait in report["waiting"] if wait["instance"] == name]
    assert token in group.cloud.command("status").stdout
    other = "0" * len(token)
    with pytest.raises(ClientError, match=f"No active Lifecycle Action found with token {other}"):
        group.complete("launch", LifecycleActionToken=other)
    assert group.states() == {"Pending:Wait": 1}
    group.complete("launch", LifecycleActionToken=token)
    assert group.states() == {"InService": 1}


def test_a_late_completion_or_heartbeat_is_refused(new_group: NewGroup) -> None:
    """CompleteLifecycleAction: ValidationError when the action is over."""
    group, name = launching(new_group)
    group.complete("launch", name)
    for late in (group.complete, group.beat):
        with pytest.raises(ClientError) as refused:
            late("launch", name)
        assert refused.value.response["Error"] == {
            "Type": "Sender",
            "Code": "ValidationError",
            "Message": f"No active Lifecycle Action found with instance ID {name}",
        }
    with pytest.raises(ClientError, match="No active Lifecycle Action found"):
        group.complete("other", name)
    with pytest.raises(ClientError, match="LifecycleActionResult must be"):
        group.complete("launch", name, "PERHAPS")


def test_without_a_heartbeat_the_default_result_counts(new_group: NewGroup) -> None:
    """PutLifecycleHook: HeartbeatTimeout, DefaultResult; here CONTINUE."""
    group, name = launching(new_group, HeartbeatTimeout=30, DefaultResult="CONTINUE")
    group.cloud.forward(20)
    group.beat("launch", name)
    group.cloud.forward(20)
    assert group.states() == {"Pending:Wait": 1}
    group.cloud.forward(10)
    assert group.names("InService") == [name]


def test_an_abandoned_newcomer_is_terminated_and_replaced(new_group: NewGroup) -> None:
    """CompleteLifecycleAction: ABANDON. The activity's status is that of the tutorials on hooks."""
    group, name = launching(new_group, HeartbeatTimeout=30)
    group.complete("launch", name, "ABANDON")
    [second] = group.names("Pending:Wait")
    assert second != name
    assert group.cloud.instance(name)["State"]["Name"] == "terminated"
    group.cloud.forward(30)
    [third] = group.names("Pending:Wait")
    assert third not in (name, second)
    launches = [one for one in group.activities() if one["Description"].startswith("Launching")]
    assert [one["StatusCode"] for one in launches] == [
        "MidLifecycleAction",
        "Cancelled",
        "Cancelled",
    ]
    assert [one["StatusMessage"].split(" was ")[-1] for one in launches[1:]] == [
        "abandoned: Heartbeat Timeout",
        "abandoned: Lifecycle Action Completed with ABANDON Result",
    ]


def test_a_leaver_goes_whatever_the_result(new_group: NewGroup) -> None:
    """Lifecycle hooks, considerations: both results terminate, by word or by time-out."""
    group, name = leaving(new_group, HeartbeatTimeout=30, DefaultResult="ABANDON")
    group.cloud.forward(30)
    assert group.members() == []
    with pytest.raises(
        ClientError, match=f"No active Lifecycle Action found with instance ID {name}"
    ):
        group.complete("leave", name)


def test_a_changed_hook_is_for_those_who_begin_to_wait(new_group: NewGroup) -> None:
    """PutLifecycleHook: updates; actions that wait keep their time-out."""
    group, name = leaving(new_group, HeartbeatTimeout=60)
    group.hook("leave", "TERMINATING", HeartbeatTimeout=30)
    group.cloud.forward(30)
    assert group.names("Terminating:Wait") == [name]
    group.cloud.forward(30)
    assert group.members() == []


def test_a_member_waits_for_all_of_its_hooks(new_group: NewGroup) -> None:
    """Lifecycle hooks, considerations: CONTINUE lets other hooks complete, ABANDON stops them."""
    group = new_group(DesiredCapacity=2)
    group.hook("drain", "TERMINATING")
    group.hook("logs", "TERMINATING")
    group.scale(0)
    first, second = group.names("Terminating:Wait")
    group.complete("drain", first)
    assert first in group.names("Terminating:Wait")
    group.complete("logs", first)
    assert group.names() == [second]
    group.complete("logs", second, "ABANDON")
    assert group.members() == []


def test_a_hook_that_is_deleted_keeps_nobody_waiting(new_group: NewGroup) -> None:
    """DeleteLifecycleHook: ABANDON for launching instances, CONTINUE for terminating instances."""
    group, name = launching(new_group)
    group.hook("leave", "TERMINATING")
    group.api.delete_lifecycle_hook(AutoScalingGroupName=group.name, LifecycleHookName="launch")
    assert group.states() == {"InService": 1, "Terminating:Wait": 1}
    assert group.names("Terminating:Wait") == [name]
    group.api.delete_lifecycle_hook(AutoScalingGroupName=group.name, LifecycleHookName="leave")
    assert group.states() == {"InService": 1}
    with pytest.raises(ClientError, match="ValidationError"):
        group.api.delete_lifecycle_hook(AutoScalingGroupName=group.name, LifecycleHookName="leave")


def test_a_hook_has_aws_defaults_and_keeps_what_is_not_said_anew(group: Group) -> None:
    """PutLifecycleHook: defaults, ranges, and updates."""
    group.hook("leave", "TERMINATING", NotificationMetadata="web")

    def told() -> dict[str, object]:
        hooks = group.api.describe_lifecycle_hooks(
            AutoScalingGroupName=group.name, LifecycleHookNames=["leave"]
        )
        found: dict[str, object] = hooks["LifecycleHooks"][0]
        return found

    first = told()
    assert first == {
        "LifecycleHookName": "leave",
        "AutoScalingGroupName": group.name,
        "LifecycleTransition": "autoscaling:EC2_INSTANCE_TERMINATING",
        "NotificationMetadata": "web",
        "HeartbeatTimeout": 3600,
        "GlobalTimeout": 172800,
        "DefaultResult": "ABANDON",
    }
    put = {"AutoScalingGroupName": group.name, "LifecycleHookName": "leave"}
    group.api.put_lifecycle_hook(**put, HeartbeatTimeout=60)
    assert told() == {**first, "HeartbeatTimeout": 60, "GlobalTimeout": 6000}
    for wrong in ({"HeartbeatTimeout": 29}, {"HeartbeatTimeout": 7201}, {"DefaultResult": "NO"}):
        with pytest.raises(ClientError, match="ValidationError"):
            group.api.put_lifecycle_hook(**put, **wrong)
    with pytest.raises(ClientError, match="LifecycleTransition must be"):
        group.api.put_lifecycle_hook(**{**put, "LifecycleHookName": "new"})
    with pytest.raises(ClientError, match="AutoScalingGroup name not found"):
        group.api.put_lifecycle_hook(**{**put, "AutoScalingGroupName": "none"})


def test_the_first_members_wait_for_hooks_that_the_group_is_made_with(new_group: NewGroup) -> None:
    """CreateAutoScalingGroup: LifecycleHookSpecificationList."""
    hook = {
        "LifecycleHookName": "launch",
        "LifecycleTransition": "autoscaling:EC2_INSTANCE_LAUNCHING",
    }
    group = new_group(LifecycleHookSpecificationList=[hook])
    assert group.states() == {"Pending:Wait": 3}


def test_a_newcomer_that_dies_while_it_waits_is_replaced(new_group: NewGroup) -> None:
    """Troubleshoot EC2 instance launch failures: "Instance became unhealthy while waiting"."""
    group, name = launching(new_group)
    group.cloud.ec2.terminate_instances(InstanceIds=[name])
    assert group.states() == {"Pending:Wait": 1}
    assert group.names() != [name]
    [cancelled] = [one for one in group.activities() if one["StatusCode"] == "Cancelled"]
    assert cancelled["StatusMessage"].startswith("Instance became unhealthy while waiting for")


def test_a_machine_sees_where_it_is_going(cloud: LocalCloud, new_group: NewGroup) -> None:
    """Retrieve the target lifecycle state through instance metadata."""
    group = new_group(image=cloud.base(), DesiredCapacity=0)
    group.hook("launch", "LAUNCHING")
    group.hook("leave", "TERMINATING")
    group.scale(1)
    [name] = group.names()
    address = cloud.instance(name)["PrivateIpAddress"]
    path = f"{URL}/meta-data/autoscaling/target-lifecycle-state"
    ask = f'curl -sS --fail -H "X-aws-ec2-metadata-token: {TOKEN}" {path}'
    assert cloud.ssh(address, ask) == "InService"  # while it is Pending:Wait
    group.complete("launch", name)
    assert cloud.ssh(address, ask) == "InService"
    standby = {"AutoScalingGroupName": group.name, "InstanceIds": [name]}
    group.api.enter_standby(**standby, ShouldDecrementDesiredCapacity=True)
    assert cloud.ssh(address, ask) == "Standby"
    group.api.exit_standby(**standby)
    group.complete("launch", name)
    group.scale(0)
    assert group.states() == {"Terminating:Wait": 1}
    assert cloud.ssh(address, ask) == "Terminated"
    group.complete("leave", name)
    wait("the machine goes", lambda: cloud.machine(name) is None)
