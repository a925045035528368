"""scaling_policies: one sets the size of a group, and no second one."""

from collections.abc import Iterator
from typing import Any

import pytest
import scaling_policies
from aws_server import Aws, serve


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
    assert scaling_policies.found(autoscaling, ["superset-celery_worker"]) == []


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
    assert scaling_policies.found(autoscaling, ["superset-celery_worker"]) == [
        "superset-celery_worker has the scaling policy cpu",
        "superset-celery_worker has the scheduled action morning",
    ]
