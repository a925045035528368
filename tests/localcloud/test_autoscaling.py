"""Auto-scaling groups: zones, versions of the launch template, bounds, replacement, activities.

Docstrings name the page of Amazon EC2 Auto Scaling's user guide, or the action of its API
reference, that says so.
"""

from collections.abc import Callable
from typing import Any

import pytest
from botocore.exceptions import ClientError

from tests.localcloud.conftest import ZONES, Group, LocalCloud, wait

NewGroup = Callable[..., Group]


def test_members_are_spread_over_the_zones_both_ways(group: Group) -> None:
    """Amazon EC2 Auto Scaling benefits: Example: Distribute instances across Availability Zones."""
    assert {member["AvailabilityZone"] for member in group.members()} == set(ZONES)
    group.scale(5)
    assert group.zones() == [1, 2, 2]
    group.scale(2)
    assert group.zones() == [1, 1]


def test_a_member_stands_in_the_subnet_of_its_zone(cloud: LocalCloud, new_group: NewGroup) -> None:
    """CreateAutoScalingGroup: VPCZoneIdentifier, in whatever order."""
    group = new_group(VPCZoneIdentifier=",".join(reversed(cloud.subnets)))
    told = {
        (one["SubnetId"], one["Placement"]["AvailabilityZone"])
        for one in map(cloud.instance, group.names())
    }
    assert told == set(zip(cloud.subnets, ZONES, strict=True))


def test_a_capacity_out_of_bounds_is_refused(group: Group) -> None:
    with pytest.raises(ClientError, match="7 is above max value 6"):
        group.scale(7)
    assert len(group.members()) == 3


def test_members_have_the_tags_of_template_and_group(group: Group) -> None:
    instance = group.cloud.instance(group.members()[0]["InstanceId"])
    tags = {tag["Key"]: tag["Value"] for tag in instance["Tags"]}
    assert tags["role"] == "web"
    assert tags["fleet"] == "superset"
    assert tags["aws:autoscaling:groupName"] == group.name


@pytest.mark.parametrize(("version", "wanted"), [("$Latest", "2"), ("$Default", "1"), ("1", "1")])
def test_a_member_is_made_from_the_version_that_the_group_says(
    new_group: NewGroup, version: str, wanted: str
) -> None:
    """CreateAutoScalingGroup: LaunchTemplateSpecification, Version.

    Which one it was is in DescribeAutoScalingInstances, as a number.
    """
    group = new_group(version=version, DesiredCapacity=1)
    ec2 = group.cloud.ec2
    image = ec2.copy_image(SourceImageId=group.cloud.base(), SourceRegion="us-east-1", Name="two")
    group.data["ImageId"] = image["ImageId"]
    assert group.new_version() == "2"
    before = set(group.names())
    group.scale(2)
    [new] = set(group.names()) - before
    told = group.api.describe_auto_scaling_instances(InstanceIds=[new])["AutoScalingInstances"][0]
    assert told["LaunchTemplate"]["Version"] == wanted
    assert (group.cloud.instance(new)["ImageId"] == image["ImageId"]) is (wanted == "2")
    assert group.describe()["LaunchTemplate"]["Version"] == version
    ec2.deregister_image(ImageId=image["ImageId"])


def test_a_group_takes_another_version_for_its_next_members_only(new_group: NewGroup) -> None:
    """UpdateAutoScalingGroup: "existing instances are not changed"."""
    group = new_group(version="1")
    template = {"LaunchTemplateId": group.template, "Version": group.new_version()}
    group.api.update_auto_scaling_group(AutoScalingGroupName=group.name, LaunchTemplate=template)
    assert group.versions() == ["1", "1", "1"]
    group.scale(4)
    assert group.versions() == ["1", "1", "1", "2"]
    group.scale(1)  # Termination policies: Default policy, the oldest launch template first
    assert group.versions() == ["2"]


def test_a_group_whose_image_does_not_exist_is_refused(new_group: NewGroup) -> None:
    """CreateAutoScalingGroup: troubleshooting, "the image id does not exist"."""
    with pytest.raises(ClientError, match="The image id '\\[ami-0\\]' does not exist"):
        new_group(image="ami-0")


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


@pytest.mark.parametrize("way", ["terminated", "stopped", "unhealthy"])
def test_a_lost_member_is_replaced(group: Group, way: str) -> None:
    """Health checks for instances in an Auto Scaling group: anything but `running` is unhealthy."""
    lost = group.names()[0]
    health = "an EC2 health check indicating it has been terminated or stopped."
    if way == "terminated":
        group.cloud.ec2.terminate_instances(InstanceIds=[lost])
    elif way == "stopped":
        group.cloud.ec2.stop_instances(InstanceIds=[lost])
    else:
        health = "a user health-check."
        group.api.set_instance_health(InstanceId=lost, HealthStatus="Unhealthy")
    names = group.names()
    assert len(names) == 3 and lost not in names
    assert group.zones() == [1, 1, 1]
    assert group.cloud.instance(lost)["State"]["Name"] == "terminated"
    launched, terminated = group.activities()[:2]
    assert launched["Cause"].endswith(
        "an instance was launched in response to an unhealthy instance needing to be replaced."
    )
    assert terminated["Cause"].endswith(
        f"an instance was taken out of service in response to {health}"
    )
    assert terminated["Description"] == f"Terminating EC2 instance: {lost}"


def test_the_health_that_a_user_sets_counts_after_the_grace_period(new_group: NewGroup) -> None:
    """SetInstanceHealth: ShouldRespectGracePeriod."""
    group = new_group(HealthCheckGracePeriod=60, DesiredCapacity=1)
    [first] = group.names()
    group.api.set_instance_health(InstanceId=first, HealthStatus="Unhealthy")
    assert group.names() == [first]
    group.cloud.forward(60)
    group.api.set_instance_health(InstanceId=first, HealthStatus="Unhealthy")
    [second] = group.names()
    group.api.set_instance_health(
        InstanceId=second, HealthStatus="Unhealthy", ShouldRespectGracePeriod=False
    )
    assert len({first, second, *group.names()}) == 3


def test_who_is_in_no_group_has_no_health_to_set(cloud: LocalCloud) -> None:
    """SetInstanceHealth: ValidationError."""
    with pytest.raises(ClientError, match="No managed instance found for instance ID: i-1"):
        cloud.autoscaling.set_instance_health(InstanceId="i-1", HealthStatus="Unhealthy")


def test_a_suspended_process_does_nothing_until_it_is_resumed(group: Group) -> None:
    """Suspend and resume Amazon EC2 Auto Scaling processes: ReplaceUnhealthy, Launch."""
    processes = {"AutoScalingGroupName": group.name, "ScalingProcesses": ["ReplaceUnhealthy"]}
    group.api.suspend_processes(**processes)
    lost = group.names()[0]
    group.api.set_instance_health(InstanceId=lost, HealthStatus="Unhealthy")
    assert [one["HealthStatus"] for one in group.members() if one["InstanceId"] == lost] == [
        "Unhealthy"
    ]
    group.api.resume_processes(**processes)
    assert lost not in group.names()
    group.api.suspend_processes(AutoScalingGroupName=group.name, ScalingProcesses=["Launch"])
    group.scale(4)
    assert len(group.members()) == 3
    group.api.resume_processes(AutoScalingGroupName=group.name)
    assert len(group.members()) == 4


def test_zones_that_got_out_of_balance_are_balanced_the_newcomer_first(
    new_group: NewGroup,
) -> None:
    """Amazon EC2 Auto Scaling benefits: Rebalancing activities."""
    group = new_group(DesiredCapacity=0)
    subnets = group.cloud.subnets
    api = group.api
    api.update_auto_scaling_group(AutoScalingGroupName=group.name, VPCZoneIdentifier=subnets[0])
    group.scale(4)
    assert group.zones() == [4]
    api.update_auto_scaling_group(
        AutoScalingGroupName=group.name, VPCZoneIdentifier=",".join(subnets[:2])
    )

    def balanced() -> bool:
        assert 4 <= len(group.members()) <= 5
        return bool(group.zones() == [2, 2])

    wait("two members in each zone", balanced)
    causes = " ".join(activity["Cause"] for activity in group.activities())
    assert "An instance was launched to aid in balancing the group's zones." in causes
    assert "resulting in more than desired number of instances in the group." in causes


def test_activities_tell_what_happened_and_why(group: Group) -> None:
    """Verify a scaling activity for an Auto Scaling group; DescribeScalingActivities."""
    first = group.activities()[-1]
    assert first["Description"].startswith("Launching a new EC2 instance: i-")
    assert (
        "a user request created an AutoScalingGroup changing the desired capacity from 0 to 3."
        in (first["Cause"])
    )
    assert first["Cause"].endswith(
        "an instance was started in response to a difference between desired and actual capacity, "
        "increasing the capacity from 0 to 3."
    )
    assert (first["StatusCode"], first["Progress"]) == ("Successful", 100)
    assert first["StartTime"] <= first["EndTime"]
    group.scale(2)
    last = group.activities()[0]
    name = last["Description"].removeprefix("Terminating EC2 instance: ")
    assert "a user request explicitly set group desired capacity changing" in last["Cause"]
    assert last["Cause"].endswith(f"instance {name} was selected for termination.")
    group.api.update_auto_scaling_group(AutoScalingGroupName=group.name, MaxSize=1)
    assert (
        "a user request update of AutoScalingGroup constraints to min: 0, max: 1, desired: 1"
        in (group.activities()[0]["Cause"])
    )
    assert group.activities(ActivityIds=[first["ActivityId"]]) == [first]
    pages: list[dict[str, Any]] = []
    token: dict[str, str] = {}
    while not pages or token:
        page = group.api.describe_scaling_activities(
            AutoScalingGroupName=group.name, MaxRecords=2, **token
        )
        pages += page["Activities"]
        token = {"NextToken": page["NextToken"]} if "NextToken" in page else {}
    assert pages == group.activities()


def test_a_launch_that_fails_is_told_and_tried_again(group: Group) -> None:
    """Troubleshoot EC2 instance launch failures: the activity is Failed, with a message."""
    template = group.cloud.ec2.create_launch_template_version(
        LaunchTemplateId=group.template, LaunchTemplateData={**group.data, "ImageId": "ami-0"}
    )["LaunchTemplateVersion"]
    group.scale(4)
    failed = group.activities()[0]
    assert (failed["StatusCode"], len(group.members())) == ("Failed", 3)
    assert "ami-0" in failed["StatusMessage"]
    assert group.activities()[1]["StatusCode"] == "Successful"
    number = str(template["VersionNumber"])
    group.new_version()
    wait("the fourth member", lambda: len(group.members()) == 4)
    assert group.versions()[-1] == str(int(number) + 1)


def test_a_member_is_terminated_with_its_place_or_without(new_group: NewGroup) -> None:
    """TerminateInstanceInAutoScalingGroup: ShouldDecrementDesiredCapacity."""
    group = new_group(MinSize=2)
    first, second, _ = group.names()

    def terminate(name: str, decrement: bool) -> dict[str, Any]:
        told: dict[str, Any] = group.api.terminate_instance_in_auto_scaling_group(
            InstanceId=name, ShouldDecrementDesiredCapacity=decrement
        )["Activity"]
        return told

    told = terminate(first, False)
    assert told["Description"] == f"Terminating EC2 instance: {first}"
    assert first not in group.names() and len(group.members()) == 3
    assert terminate(second, True)["Cause"].endswith("shrinking the capacity from 3 to 2.")
    assert len(group.members()) == group.describe()["DesiredCapacity"] == 2
    with pytest.raises(ClientError, match="will violate group's min size constraint"):
        terminate(group.names()[0], True)
    assert len(group.members()) == 2
    with pytest.raises(ClientError, match="No managed instance found"):
        terminate(first, False)


def test_a_member_goes_to_standby_and_comes_back(new_group: NewGroup) -> None:
    """Temporarily remove instances from your Auto Scaling group; EnterStandby, ExitStandby."""
    group = new_group(MinSize=2)
    group.hook("launch", "LAUNCHING")
    group.api.suspend_processes(AutoScalingGroupName=group.name, ScalingProcesses=["AZRebalance"])
    first, second, _ = group.names()

    def enter(name: str, decrement: bool) -> None:
        group.api.enter_standby(
            AutoScalingGroupName=group.name,
            InstanceIds=[name],
            ShouldDecrementDesiredCapacity=decrement,
        )

    enter(first, True)
    assert (group.states(), group.describe()["DesiredCapacity"]) == (
        {"Standby": 1, "InService": 2},
        2,
    )
    assert group.activities()[0]["Cause"].endswith("shrinking the capacity from 3 to 2.")
    with pytest.raises(ClientError, match="min-size=2, max-size=6, and desired-size=2"):
        enter(second, True)
    with pytest.raises(ClientError, match=f"{first} is not in InService"):
        enter(first, False)
    enter(second, False)
    assert group.states() == {"Standby": 2, "InService": 1, "Pending:Wait": 1}
    group.complete("launch", group.names("Pending:Wait")[0])
    group.api.exit_standby(AutoScalingGroupName=group.name, InstanceIds=[first])
    assert group.names("Pending:Wait") == [first]
    group.complete("launch", first)
    assert group.describe()["DesiredCapacity"] == 3
    assert group.states() == {"Standby": 1, "InService": 3}


def test_a_group_with_members_is_deleted_by_force_only(group: Group) -> None:
    """DeleteAutoScalingGroup: ForceDelete; outstanding lifecycle actions go as well."""
    group.hook("leave", "TERMINATING")
    names = group.names()
    with pytest.raises(ClientError, match="ResourceInUse"):
        group.api.delete_auto_scaling_group(AutoScalingGroupName=group.name)
    group.scale(2)
    group.api.delete_auto_scaling_group(AutoScalingGroupName=group.name, ForceDelete=True)
    assert {group.cloud.instance(name)["State"]["Name"] for name in names} == {"terminated"}
    with pytest.raises(ClientError, match="not found"):
        group.activities()
    assert group.activities(IncludeDeletedGroups=True)
