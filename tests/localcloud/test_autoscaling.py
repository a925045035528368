"""Auto-scaling groups: zones, versions of the launch template, bounds, replacement."""

from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest
from botocore.exceptions import ClientError
from conftest import ZONES, LocalCloud


class Group:
    """A group over all zones."""

    def __init__(self, cloud: LocalCloud) -> None:
        self.cloud = cloud
        self.api = cloud.autoscaling
        tags = [{"ResourceType": "instance", "Tags": [{"Key": "role", "Value": "web"}]}]
        self.data = {
            "ImageId": cloud.base(),
            "InstanceType": "t3.small",
            "KeyName": "key",
            "TagSpecifications": tags,
        }
        self.template = cloud.ec2.create_launch_template(
            LaunchTemplateName="group", LaunchTemplateData=self.data
        )["LaunchTemplate"]["LaunchTemplateId"]
        self.api.create_auto_scaling_group(
            AutoScalingGroupName="group",
            LaunchTemplate={"LaunchTemplateId": self.template, "Version": "$Latest"},
            MinSize=0,
            MaxSize=6,
            DesiredCapacity=3,
            VPCZoneIdentifier=",".join(cloud.subnets),
            Tags=[{"Key": "fleet", "Value": "superset", "PropagateAtLaunch": True}],
        )

    def members(self) -> list[dict[str, Any]]:
        groups = self.api.describe_auto_scaling_groups(AutoScalingGroupNames=["group"])
        members: list[dict[str, Any]] = groups["AutoScalingGroups"][0]["Instances"]
        return members

    def scale(self, count: int) -> None:
        self.api.set_desired_capacity(AutoScalingGroupName="group", DesiredCapacity=count)

    def zones(self) -> list[int]:
        return sorted(Counter(member["AvailabilityZone"] for member in self.members()).values())


@pytest.fixture
def group(cloud: LocalCloud) -> Iterator[Group]:
    made = Group(cloud)
    yield made
    cloud.autoscaling.delete_auto_scaling_group(AutoScalingGroupName="group", ForceDelete=True)
    cloud.ec2.delete_launch_template(LaunchTemplateId=made.template)


def test_members_are_spread_over_the_zones_both_ways(group: Group) -> None:
    assert {member["AvailabilityZone"] for member in group.members()} == set(ZONES)
    group.scale(5)
    assert group.zones() == [1, 2, 2]
    group.scale(2)
    assert group.zones() == [1, 1]


def test_a_capacity_out_of_bounds_is_refused(group: Group) -> None:
    with pytest.raises(ClientError, match="7 is above max value 6"):
        group.scale(7)
    assert len(group.members()) == 3


def test_members_have_the_tags_of_template_and_group(group: Group) -> None:
    instance = group.cloud.instance(group.members()[0]["InstanceId"])
    tags = {tag["Key"]: tag["Value"] for tag in instance["Tags"]}
    assert tags["role"] == "web"
    assert tags["fleet"] == "superset"
    assert tags["aws:autoscaling:groupName"] == "group"


def test_a_member_is_made_from_the_version_that_the_group_says(group: Group) -> None:
    ec2 = group.cloud.ec2
    image = ec2.copy_image(SourceImageId=group.cloud.base(), SourceRegion="us-east-1", Name="two")
    data = {**group.data, "ImageId": image["ImageId"]}
    ec2.create_launch_template_version(LaunchTemplateId=group.template, LaunchTemplateData=data)
    before = {member["InstanceId"] for member in group.members()}
    group.scale(4)
    [new] = [member for member in group.members() if member["InstanceId"] not in before]
    assert group.cloud.instance(new["InstanceId"])["ImageId"] == image["ImageId"]
    versions = [member["LaunchTemplate"]["Version"] for member in group.members()]
    assert sorted(versions) == ["1", "1", "1", "2"]
    ec2.deregister_image(ImageId=image["ImageId"])


def test_a_deleted_version_of_a_template_is_gone_and_its_number_is_not_given_again(
    group: Group,
) -> None:
    ec2 = group.cloud.ec2

    def make() -> int:
        made = ec2.create_launch_template_version(
            LaunchTemplateId=group.template, LaunchTemplateData=group.data
        )
        return int(made["LaunchTemplateVersion"]["VersionNumber"])

    versions = [make(), make()]
    ec2.delete_launch_template_versions(
        LaunchTemplateId=group.template, Versions=[str(versions[0])]
    )
    told = ec2.describe_launch_template_versions(LaunchTemplateId=group.template)
    numbers = [version["VersionNumber"] for version in told["LaunchTemplateVersions"]]
    assert versions[0] not in numbers
    assert versions[1] in numbers
    assert make() == versions[1] + 1


@pytest.mark.parametrize("way", ["terminated", "unhealthy"])
def test_a_lost_member_is_replaced(group: Group, way: str) -> None:
    lost = group.members()[0]["InstanceId"]
    if way == "terminated":
        group.cloud.ec2.terminate_instances(InstanceIds=[lost])
    else:
        group.api.set_instance_health(InstanceId=lost, HealthStatus="Unhealthy")
    names = [member["InstanceId"] for member in group.members()]
    assert len(names) == 3 and lost not in names
    assert group.zones() == [1, 1, 1]
    assert group.cloud.instance(lost)["State"]["Name"] == "terminated"
