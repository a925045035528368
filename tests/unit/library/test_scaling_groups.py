"""scaling_groups: what groups are to be, and that one sets a group's size, and no second one."""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
from scaling_groups import Group, GroupError, after, plan, policies, wanted_groups

from tests.support.aws_server import Aws, serve


@pytest.fixture
def autoscaling() -> Iterator[Any]:
    """A group without policies, in an AWS played by moto."""
    with serve() as aws:
        yield group(aws)


def group(aws: Aws) -> Any:
    ec2, autoscaling = aws.client("ec2"), aws.client("autoscaling")
    image = ec2.register_image(Name="image")["ImageId"]
    data = {"ImageId": image, "InstanceType": "t3.micro"}
    ec2.create_launch_template(LaunchTemplateName="worker", LaunchTemplateData=data)
    autoscaling.create_auto_scaling_group(
        AutoScalingGroupName="superset-celery_worker",
        MinSize=0,
        MaxSize=4,
        LaunchTemplate={"LaunchTemplateName": "worker"},
        AvailabilityZones=["us-east-1a"],
    )
    return autoscaling


def test_a_group_that_only_the_scaler_scales_is_well(autoscaling: Any) -> None:
    assert policies(autoscaling, ["superset-celery_worker"]) == []


def test_a_policy_and_a_scheduled_action_are_named(autoscaling: Any) -> None:
    known = {"AutoScalingGroupName": "superset-celery_worker"}
    autoscaling.put_scaling_policy(
        **known,
        PolicyName="cpu",
        PolicyType="TargetTrackingScaling",
        TargetTrackingConfiguration={
            "PredefinedMetricSpecification": {"PredefinedMetricType": "ASGAverageCPUUtilization"},
            "TargetValue": 50.0,
        },
    )
    autoscaling.put_scheduled_update_group_action(
        **known, ScheduledActionName="morning", Recurrence="0 8 * * *", DesiredCapacity=4
    )
    assert policies(autoscaling, ["superset-celery_worker"]) == [
        "superset-celery_worker has the scaling policy cpu",
        "superset-celery_worker has the scheduled action morning",
    ]


SIZE = {"min": 1, "desired": 2, "max": 4}
WEB, WORKER = "superset-superset_web", "superset-celery_worker"


def wanted(**options: Any) -> dict[str, Group]:
    usual = {
        "fleet": "superset",
        "groups": {"superset_web": SIZE},
        "queues": ["sql_lab", "charts"],
        "subnets": ["subnet-2", "subnet-1"],
        "open": True,
        "leave_timeout": 260,
        "tags": {"fleet": "superset"},
    }
    return wanted_groups(usual | options)


def verbs(current: dict[str, Group], groups: dict[str, Group]) -> list[str]:
    return [step.verb for step in plan(current, groups)]


def test_a_group_that_is_missing_is_made_and_one_that_is_there_stays() -> None:
    assert verbs({}, wanted()) == ["create"]
    assert verbs(wanted(), wanted()) == []


def test_the_number_of_machines_is_left_to_who_scales() -> None:
    group = wanted()[WEB]
    assert verbs({WEB: replace(group, desired=4)}, {WEB: group}) == []


def test_bounds_move_the_number_of_machines_only_as_far_as_they_must() -> None:
    there = replace(wanted()[WEB], min=0, desired=0, max=9)
    [step] = plan({WEB: there}, wanted())
    assert (step.value.min, step.value.desired, step.value.max) == (1, 1, 4)


def test_a_group_without_room_begins_with_what_is_desired() -> None:
    closed = wanted(open=False)
    assert (closed[WEB].min, closed[WEB].desired, closed[WEB].max) == (0, 0, 0)
    [step] = plan(closed, wanted())
    assert (step.verb, step.value.desired) == ("update", 2)


@pytest.mark.parametrize(
    ("drift", "verb"),
    [
        ({"subnets": ("subnet-1",)}, "update"),
        ({"template": "superset-superset_web 7"}, "update"),
        ({"max": 5}, "update"),
        ({"tags": {"fleet": "superset", "role": "superset_web", "Name": "web"}}, "tag"),
        ({"leave_timeout": 30}, "set the hook of"),
        ({"leave_timeout": None}, "set the hook of"),
        ({"metrics": False}, "collect metrics of"),
    ],
)
def test_what_drifted_is_brought_back(drift: dict[str, Any], verb: str) -> None:
    there = {WEB: replace(wanted()[WEB], **drift)}
    assert verbs(there, wanted()) == [verb]


def test_other_tags_and_hooks_are_left_alone() -> None:
    groups = wanted(groups={"scheduler": SIZE})
    name = "superset-scheduler"
    there = replace(
        groups[name], tags={**groups[name].tags, "size_before": "2/2"}, leave_timeout=30
    )
    assert plan({name: there}, groups) == []
    assert after({name: there}, groups) == {name: there}


def test_worker_groups_tell_their_queues_and_who_scales_them() -> None:
    reports = {"role": "celery_worker", "queues": ["reports"], "scaling": "cloud", **SIZE}
    groups = wanted(groups={"celery_worker": SIZE, "reports": reports})
    assert groups[WORKER].tags == {
        "fleet": "superset",
        "role": "celery_worker",
        "Name": "celery_worker",
        "queues": "sql_lab charts",
        "scaling": "scaler",
    }
    told = groups["superset-reports"].tags
    assert (told["role"], told["queues"], told["scaling"]) == ("celery_worker", "reports", "cloud")


@pytest.mark.parametrize(
    ("size", "message"),
    [
        ({"min": 1, "max": 2}, "superset_web has no desired: complete it in fleet_groups"),
        ({"min": 3, "desired": 2, "max": 4}, "superset_web has min 3, desired 2, max 4"),
    ],
)
def test_sizes_that_cannot_be_are_refused(size: dict[str, int], message: str) -> None:
    with pytest.raises(GroupError, match=message):
        wanted(groups={"superset_web": size})
