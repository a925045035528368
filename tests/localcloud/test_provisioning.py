"""The modules that provision, as Ansible runs them, against a cloud that behaves as AWS.

Each: check mode foretells and does nothing, a run makes it, a second one changes nothing, what
drifted is brought back, and what cannot be is refused in words.
"""

import json
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest

from tests.localcloud.conftest import ROOT, ZONES, LocalCloud

REGION = "us-east-1"
Run = Callable[..., dict[str, Any]]
CODE = f"""
import ansible.module_utils, runpy
ansible.module_utils.__path__.append({str(ROOT / "src")!r})
runpy.run_path({str(ROOT / "library")!r} + "/%s.py", run_name="__main__")
"""


@pytest.fixture
def run(cloud: LocalCloud) -> Run:
    def run(module: str, check: bool = False, fails: bool = False, **options: Any) -> Any:
        arguments = {"region": REGION, "_ansible_check_mode": check, "_ansible_diff": True}
        done = subprocess.run(
            [sys.executable, "-c", CODE % module],
            input=json.dumps({"ANSIBLE_MODULE_ARGS": arguments | options}),
            capture_output=True,
            text=True,
        )
        answer = json.loads(done.stdout)
        assert bool(answer.get("failed")) == fails, answer.get("msg", done.stderr)
        answer["said"] = done.stdout + done.stderr
        return answer

    return run


def made(run: Run, module: str, **options: Any) -> dict[str, Any]:
    """Foretell, do, and do again; return what the first run said."""
    foretold = run(module, check=True, **options)
    answer = run(module, **options)
    assert answer["changed"]
    assert (foretold["steps"], foretold["diff"]) == (answer["steps"], answer["diff"])
    again = run(module, **options)
    assert not again["changed"]
    assert again["diff"]["before"] == again["diff"]["after"]
    return answer


# ---- security groups

OPENINGS = {
    "web": [{"ports": [80, "8000-8100"], "cidr_ip": ["192.0.2.0/24"]}],
    "redis": [{"ports": [6379], "group_name": ["mutual-web", "mutual-redis"]}],
}


@pytest.fixture
def vpc(cloud: LocalCloud) -> str:
    vpcs = cloud.ec2.describe_vpcs(Filters=[{"Name": "cidr", "Values": [str(cloud.block)]}])
    return str(vpcs["Vpcs"][0]["VpcId"])


@pytest.fixture
def groups(vpc: str) -> dict[str, Any]:
    return {
        "fleet": "mutual",
        "vpc_id": vpc,
        "openings": OPENINGS,
        "control": ["10.0.0.0/8"],
        "tags": {"fleet": "mutual"},
    }


def sources(cloud: LocalCloud, group_id: str) -> set[tuple[int, str]]:
    [group] = cloud.ec2.describe_security_groups(GroupIds=[group_id])["SecurityGroups"]
    return {
        (rule["FromPort"], source)
        for rule in group["IpPermissions"]
        for source in [
            *(one["CidrIp"] for one in rule["IpRanges"]),
            *(one["GroupId"] for one in rule["UserIdGroupPairs"]),
        ]
    }


def test_groups_may_name_themselves_and_each_other(
    run: Run, cloud: LocalCloud, groups: dict[str, Any]
) -> None:
    """AuthorizeSecurityGroupIngress."""
    groups["openings"] = OPENINGS | {
        "web": [*OPENINGS["web"], {"ports": [8088], "group_name": ["mutual-redis"]}]
    }
    ids = made(run, "security_groups", **groups)["groups"]
    assert sources(cloud, ids["redis"]) == {
        (22, "10.0.0.0/8"),
        (6379, ids["web"]),
        (6379, ids["redis"]),
    }
    assert (8088, ids["redis"]) in sources(cloud, ids["web"])


def test_rules_that_are_not_wanted_go_and_those_that_are_missing_come_back(
    run: Run, cloud: LocalCloud, groups: dict[str, Any]
) -> None:
    """RevokeSecurityGroupIngress."""
    ids = run("security_groups", **groups)["groups"]
    before = sources(cloud, ids["web"])
    everybody: dict[str, Any] = {"IpProtocol": "tcp", "FromPort": 5432, "ToPort": 5432}
    everybody["IpRanges"] = [{"CidrIp": "0.0.0.0/0"}]
    cloud.ec2.authorize_security_group_ingress(GroupId=ids["web"], IpPermissions=[everybody])
    http = {"IpProtocol": "tcp", "FromPort": 80, "ToPort": 80}
    http["IpRanges"] = [{"CidrIp": "192.0.2.0/24"}]
    cloud.ec2.revoke_security_group_ingress(GroupId=ids["web"], IpPermissions=[http])
    out = {"IpProtocol": "-1", "IpRanges": [{"CidrIp": "0.0.0.0/0"}]}
    cloud.ec2.revoke_security_group_egress(GroupId=ids["web"], IpPermissions=[out])
    cloud.ec2.delete_tags(Resources=[ids["web"]], Tags=[{"Key": "role"}])
    made(run, "security_groups", **groups)
    assert sources(cloud, ids["web"]) == before
    [group] = cloud.ec2.describe_security_groups(GroupIds=[ids["web"]])["SecurityGroups"]
    assert group["IpPermissionsEgress"][0]["IpProtocol"] == "-1"
    assert {"Key": "role", "Value": "web"} in group["Tags"]


def test_groups_without_rules_can_be_removed_in_any_order(
    run: Run, cloud: LocalCloud, groups: dict[str, Any]
) -> None:
    """DeleteSecurityGroup: one that another group names cannot be deleted. destroy.yml."""
    ids = run("security_groups", **groups)["groups"]
    run("security_groups", **groups | {"openings": {"web": [], "redis": []}, "control": []})
    assert not sources(cloud, ids["web"]) | sources(cloud, ids["redis"])
    for group_id in ids.values():
        cloud.ec2.delete_security_group(GroupId=group_id)


def test_an_opening_for_a_group_that_is_not_there_is_refused_before_anything_is_made(
    run: Run, cloud: LocalCloud, groups: dict[str, Any]
) -> None:
    groups |= {"fleet": "refused"}  # OPENINGS name groups of the fleet mutual
    told = run("security_groups", fails=True, **groups)["msg"]
    assert told.startswith("security groups of fleet refused: redis: the fleet has no group mutual")
    named = [{"Name": "group-name", "Values": ["refused-*"]}]
    assert cloud.ec2.describe_security_groups(Filters=named)["SecurityGroups"] == []


# ---- subnets


def test_subnets_are_made_and_brought_back(run: Run, cloud: LocalCloud) -> None:
    """CreateSubnet, ModifySubnetAttribute."""
    vpc_id = cloud.ec2.create_vpc(CidrBlock="10.80.0.0/20")["Vpc"]["VpcId"]
    options = {
        "fleet": "zones",
        "vpc_id": vpc_id,
        "vpc_cidr": "10.80.0.0/20",
        "zones": ZONES,
        "tags": {"fleet": "zones"},
    }
    ids = made(run, "subnets", **options)["ids"]
    told = cloud.ec2.describe_subnets(SubnetIds=ids)["Subnets"]
    assert sorted(one["AvailabilityZone"] for one in told) == ZONES
    assert all(one["MapPublicIpOnLaunch"] for one in told)
    cloud.ec2.modify_subnet_attribute(SubnetId=ids[1], MapPublicIpOnLaunch={"Value": False})
    cloud.ec2.delete_tags(Resources=[ids[0]], Tags=[{"Key": "fleet"}])
    assert len(made(run, "subnets", **options)["steps"]) == 2
    refused = run("subnets", fails=True, **options | {"zones": ZONES[::-1]})["msg"]
    assert "leave fleet_zones in the order that they were in" in refused


def test_a_failure_names_the_step_and_the_object(run: Run, vpc: str) -> None:
    """CreateSubnet: InvalidSubnet.Range."""
    options = {"fleet": "lost", "vpc_id": vpc, "vpc_cidr": "10.99.0.0/20", "zones": ZONES}
    told = run("subnets", fails=True, **options)["msg"]
    begins = "subnets of fleet lost: create 10.99.4.0/22: region us-east-1: CreateSubnet: "
    assert told.startswith(begins)


# ---- instance profiles


def test_instance_profiles_are_made_and_brought_back(run: Run, cloud: LocalCloud) -> None:
    """CreateRole, PutRolePolicy, CreateInstanceProfile, AddRoleToInstanceProfile."""
    statement = {"Effect": "Allow", "Action": ["ec2:DescribeInstances"], "Resource": "*"}
    options = {"fleet": "profiles", "permissions": {"haproxy": [statement]}}
    options["tags"] = {"fleet": "profiles"}
    name = f"profiles-{REGION}-haproxy"
    made(run, "instance_profiles", **options)
    profile = cloud.iam.get_instance_profile(InstanceProfileName=name)["InstanceProfile"]
    assert [role["RoleName"] for role in profile["Roles"]] == [name]

    def policy() -> Any:
        said = cloud.iam.get_role_policy(RoleName=name, PolicyName="fleet")["PolicyDocument"]
        return said["Statement"]

    assert policy() == [statement]
    more = {"Version": "2012-10-17", "Statement": [statement | {"Action": ["*"]}]}
    cloud.iam.put_role_policy(RoleName=name, PolicyName="fleet", PolicyDocument=json.dumps(more))
    cloud.iam.remove_role_from_instance_profile(InstanceProfileName=name, RoleName=name)
    cloud.iam.untag_role(RoleName=name, TagKeys=["role"])
    assert len(made(run, "instance_profiles", **options)["steps"]) == 3
    assert policy() == [statement]


# ---- parameters


def test_passwords_are_made_once_and_nobody_is_told(run: Run, cloud: LocalCloud) -> None:
    """PutParameter: Overwrite is false."""
    path = "/superset-fleet/passwords/secrets"
    options = {"path": path, "tags": {"fleet": "passwords"}}
    cloud.ssm.put_parameter(Name=f"{path}/old", Value="kept", Type="SecureString")
    answer = made(run, "parameters", passwords=["old", "new"], **options)
    assert answer["steps"] == ["make new"]

    def stored(name: str) -> Any:
        return cloud.ssm.get_parameter(Name=f"{path}/{name}", WithDecryption=True)["Parameter"]

    assert stored("old")["Value"] == "kept"
    assert (stored("new")["Type"], len(stored("new")["Value"])) == ("SecureString", 40)
    assert stored("new")["Value"] not in answer["said"]


def test_values_are_stored_changed_and_removed_and_nobody_is_told(
    run: Run, cloud: LocalCloud
) -> None:
    """PutParameter, DeleteParameters."""
    path = "/superset-fleet/values/secrets"
    for value in ("a first secret", "another secret"):
        answer = made(run, "parameters", path=path, values={"certificate": value})
        stored = cloud.ssm.get_parameter(Name=f"{path}/certificate", WithDecryption=True)
        assert stored["Parameter"]["Value"] == value
        assert "secret" not in answer["said"].replace(path, "")
    made(run, "parameters", path=path, absent=["certificate", "never there"])
    assert cloud.ssm.get_parameters_by_path(Path=path)["Parameters"] == []


# ---- launch templates and groups


@pytest.fixture
def templates(cloud: LocalCloud) -> dict[str, Any]:
    group = cloud.ec2.create_security_group
    found = cloud.ec2.describe_security_groups(
        Filters=[{"Name": "group-name", "Values": ["templates"]}]
    )["SecurityGroups"]
    group_id = (
        found[0]["GroupId"] if found else group(GroupName="templates", Description="-")["GroupId"]
    )
    return {
        "fleet": "groups",
        "groups": {"superset_web": {}, "celery_worker": {}},
        "queues": ["sql_lab", "charts"],
        "image_id": cloud.diskless(),
        "root_device_name": "/dev/sda1",
        "instance_types": {"superset_web": "t3.small", "celery_worker": "t3.small"},
        "volume_sizes_gb": {"superset_web": 15, "celery_worker": 15},
        "security_groups": {"superset_web": group_id, "celery_worker": group_id},
        "user_data": "[default]\n",
    }


def versions(cloud: LocalCloud, name: str) -> list[Any]:
    told = cloud.ec2.describe_launch_template_versions(LaunchTemplateName=name)
    versions: list[Any] = told["LaunchTemplateVersions"]
    return versions


def test_launch_templates_get_a_version_for_each_change_and_no_other(
    run: Run, cloud: LocalCloud, templates: dict[str, Any]
) -> None:
    """CreateLaunchTemplateVersion, ModifyLaunchTemplate."""
    templates["fleet"] = "versions"
    name = "versions-celery_worker"
    made(run, "launch_templates", **templates)
    assert len(versions(cloud, name)) == 1
    made(run, "launch_templates", **templates | {"queues": ["reports"]})
    newest = max(versions(cloud, name), key=lambda version: version["VersionNumber"])
    assert (newest["VersionNumber"], newest["DefaultVersion"]) == (2, True)
    assert len(versions(cloud, "versions-superset_web")) == 1  # takes nothing from queues
    cloud.ec2.modify_launch_template(LaunchTemplateName=name, DefaultVersion="1")
    answer = made(run, "launch_templates", **templates | {"queues": ["reports"]})
    assert answer["steps"] == [f"set the default version of {name}"]


def test_a_group_comes_with_its_hook_and_its_machines(
    run: Run, cloud: LocalCloud, templates: dict[str, Any]
) -> None:
    """CreateAutoScalingGroup, with LifecycleHookSpecificationList."""
    statement = {"Effect": "Allow", "Action": ["ec2:DescribeInstances"], "Resource": "*"}
    profiles = {"superset_web": [statement], "celery_worker": [statement]}
    # Else no machine can start.
    run("instance_profiles", fleet="groups", permissions=profiles)
    cloud.ec2.create_key_pair(KeyName="groups")
    run("launch_templates", **templates)
    size = {"min": 0, "desired": 1, "max": 2}
    options = {
        "fleet": "groups",
        "groups": {"superset_web": size, "celery_worker": size},
        "queues": ["sql_lab", "charts"],
        "subnets": cloud.subnets,
        "leave_timeout": 260,
        "timeout": 60,
        "tags": {"fleet": "groups"},
    }
    names = ["groups-superset_web", "groups-celery_worker"]
    api = cloud.autoscaling

    def group(name: str) -> Any:
        return api.describe_auto_scaling_groups(AutoScalingGroupNames=[name])["AutoScalingGroups"][
            0
        ]

    def tags(name: str) -> dict[str, str]:
        return {tag["Key"]: tag["Value"] for tag in group(name)["Tags"]}

    try:
        made(run, "scaling_groups", **options, open=False)
        assert group(names[0])["MaxSize"] == 0
        made(run, "scaling_groups", **options)
        for name in names:
            states = [one["LifecycleState"] for one in group(name)["Instances"]]
            assert states == ["InService"]
            [hook] = api.describe_lifecycle_hooks(AutoScalingGroupName=name)["LifecycleHooks"]
            assert (hook["LifecycleHookName"], hook["HeartbeatTimeout"]) == ("leave", 260)
        assert tags(names[1])["queues"] == "sql_lab charts"
        assert tags(names[1])["scaling"] == "scaler"

        # Somebody scales, and changes what is not theirs.
        api.set_desired_capacity(AutoScalingGroupName=names[1], DesiredCapacity=2)
        assert not run("scaling_groups", **options)["changed"]
        api.update_auto_scaling_group(AutoScalingGroupName=names[1], MaxSize=9)
        api.delete_lifecycle_hook(AutoScalingGroupName=names[1], LifecycleHookName="leave")
        api.create_or_update_tags(
            Tags=[
                {
                    "ResourceId": names[1],
                    "ResourceType": "auto-scaling-group",
                    "Key": key,
                    "Value": "2/2",
                    "PropagateAtLaunch": False,
                }
                for key in ("queues", "size_before")
            ]
        )
        assert len(made(run, "scaling_groups", **options)["steps"]) == 3
        assert (group(names[1])["MaxSize"], group(names[1])["DesiredCapacity"]) == (2, 2)
        assert (tags(names[1])["queues"], tags(names[1])["size_before"]) == (
            "sql_lab charts",
            "2/2",
        )

        api.put_scheduled_update_group_action(
            AutoScalingGroupName=names[1], ScheduledActionName="morning", DesiredCapacity=1
        )
        refused = run("scaling_groups", fails=True, **options)["msg"]
        assert f"{names[1]} has the scheduled action morning" in refused
    finally:
        for name in names:
            api.delete_auto_scaling_group(AutoScalingGroupName=name, ForceDelete=True)


# ---- survey


def test_a_survey_finds_what_is_the_fleet_s_and_no_more(
    run: Run, cloud: LocalCloud, vpc: str
) -> None:
    """DescribeSubnets, DescribeSecurityGroups, DescribeImages."""
    tags = [{"Key": "fleet", "Value": "survey"}, {"Key": "role", "Value": "web"}]
    specification = [{"ResourceType": "security-group", "Tags": tags}]
    group_id = cloud.ec2.create_security_group(
        GroupName="survey-web", Description="-", VpcId=vpc, TagSpecifications=specification
    )["GroupId"]
    images = [
        cloud.ec2.copy_image(
            SourceImageId=cloud.base(), SourceRegion=REGION, Name=f"survey-{number}"
        )["ImageId"]
        for number in (1, 2)
    ]
    for image, kind in zip(images, ("superset", "rejected"), strict=True):
        cloud.ec2.create_tags(Resources=[image], Tags=[tags[0], {"Key": "kind", "Value": kind}])
    options = {
        "fleet": "survey",
        "base_image": {"owners": ["self"], "filters": {"tag:name": "debian-12"}},
    }
    told = run("fleet_survey", subnet_ids=cloud.subnets, **options)
    assert [subnet["id"] for subnet in told["subnets"]] == cloud.subnets
    assert told["security_groups"] == {"web": group_id}
    assert [image["image_id"] for image in told["images"]] == images[:1]
    assert [image["image_id"] for image in told["rejected_images"]] == images[1:]
    assert told["base_images"][-1]["image_id"] == cloud.base()
    assert told["images"][0]["tags"]["kind"] == "superset"
    assert run("fleet_survey", **options)["subnets"] == []  # none has the fleet's tag
    for image in images:
        cloud.ec2.deregister_image(ImageId=image)
