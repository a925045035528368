"""What the scaler asks of the cloud, by its own client: the scaler's, and the answers.

Docstrings name the action of the API reference, or the page of Amazon EC2 Auto Scaling's user
guide, that says so.
"""

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import boto3
import pytest

from superset_fleet.cloud.client import AwsError
from superset_fleet.scaler.groups import NAMESPACE, CloudGroups
from tests.localcloud.conftest import Group, LocalCloud

NewGroup = Callable[..., Group]


@pytest.fixture
def scaled(cloud: LocalCloud) -> CloudGroups:
    """The groups of a fleet, as a machine of it sees them."""
    me = SimpleNamespace(region="us-east-1", fleet="scaled")
    metadata: Any = SimpleNamespace(identity=lambda: me)
    return CloudGroups(metadata, cloud.cloud.aws_config)


@pytest.fixture
def workers(new_group: NewGroup) -> Group:
    tags = {"fleet": "scaled", "role": "celery_worker", "queues": "sql_lab charts"}
    listed = [{"Key": key, "Value": value} for key, value in tags.items()]
    return new_group(Tags=[{**tag, "PropagateAtLaunch": True} for tag in listed])


def test_groups_are_told_with_sizes_tags_and_members(
    scaled: CloudGroups, workers: Group, new_group: NewGroup
) -> None:
    """DescribeAutoScalingGroups: Filters `tag:<key>`; AutoScalingGroup."""
    new_group()  # of another fleet
    [told] = scaled.groups()
    assert (told.name, told.queues) == (workers.name, ("sql_lab", "charts"))
    assert (told.min, told.desired, told.max, told.obstacle) == (0, 3, 6, "")
    assert sorted(one.id for one in told.machines) == sorted(workers.names())
    assert all(one.in_service and not one.protected for one in told.machines)


def test_a_group_gets_its_size(scaled: CloudGroups, workers: Group) -> None:
    """SetDesiredCapacity."""
    scaled.groups()
    scaled.resize(workers.name, 5)
    assert scaled.groups()[0].desired == 5
    assert len(workers.members()) == 5


def test_a_size_out_of_bounds_is_refused_in_words(scaled: CloudGroups, workers: Group) -> None:
    """SetDesiredCapacity: ValidationError."""
    scaled.groups()
    with pytest.raises(AwsError, match="7 is above max value 6"):
        scaled.resize(workers.name, 7)


def test_a_protected_member_stays_when_its_group_shrinks(
    scaled: CloudGroups, workers: Group
) -> None:
    """Use instance scale-in protection: "scale in ... does not terminate protected instances"."""
    scaled.groups()
    first, second, _ = workers.names()
    scaled.protect(workers.name, [first, second], True)
    scaled.resize(workers.name, 1)
    assert workers.names() == [first, second]
    assert scaled.groups()[0].desired == 1
    scaled.protect(workers.name, [first], False)
    assert workers.names() == [second]


def test_a_protected_member_that_is_unhealthy_or_terminated_by_hand_goes(
    scaled: CloudGroups, workers: Group
) -> None:
    """Use instance scale-in protection: what it does not protect from."""
    scaled.groups()
    first, second, third = workers.names()
    scaled.protect(workers.name, [first, second, third], True)
    workers.api.set_instance_health(InstanceId=first, HealthStatus="Unhealthy")
    workers.api.terminate_instance_in_auto_scaling_group(
        InstanceId=second, ShouldDecrementDesiredCapacity=True
    )
    assert third in workers.names()
    assert not {first, second} & set(workers.names())


def test_who_is_not_in_service_or_not_in_the_group_is_not_protected(
    scaled: CloudGroups, workers: Group, new_group: NewGroup
) -> None:
    """SetInstanceProtection: the instances of the group that are in service."""
    scaled.groups()
    workers.hook("launch", "LAUNCHING")
    workers.scale(4)
    [pending] = workers.names("Pending:Wait")
    with pytest.raises(AwsError, match=f"{pending} is not in InService"):
        scaled.protect(workers.name, [pending], True)
    with pytest.raises(AwsError, match="is not part of Auto Scaling group"):
        scaled.protect(workers.name, new_group().names(), True)


def test_metrics_are_taken(scaled: CloudGroups, workers: Group) -> None:
    """PutMetricData."""
    scaled.groups()
    scaled.measured({workers.name: {"Backlog": 6.0, "BacklogPerSlot": 1.5}})
    listed = boto3.client("cloudwatch").list_metrics(Namespace=NAMESPACE)["Metrics"]
    assert {
        (one["MetricName"], one["Dimensions"][0]["Value"])
        for one in listed
        if one["Dimensions"][0]["Value"] == workers.name
    } == {("Backlog", workers.name), ("BacklogPerSlot", workers.name)}


def test_a_policy_of_a_group_is_told(workers: Group) -> None:
    """PutScalingPolicy, DescribePolicies."""
    workers.api.put_scaling_policy(
        AutoScalingGroupName=workers.name,
        PolicyName="cpu",
        PolicyType="TargetTrackingScaling",
        TargetTrackingConfiguration={
            "PredefinedMetricSpecification": {"PredefinedMetricType": "ASGAverageCPUUtilization"},
            "TargetValue": 50.0,
        },
    )
    told = workers.api.describe_policies(AutoScalingGroupName=workers.name)["ScalingPolicies"]
    assert [one["PolicyName"] for one in told] == ["cpu"]
