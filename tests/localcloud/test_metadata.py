"""The metadata service, as an instance sees it."""

import json
from collections.abc import Callable

import pytest

from tests.localcloud.conftest import LocalCloud, wait

URL = "http://169.254.169.254/latest"
TOKEN = f'$(curl -s -X PUT -H "X-aws-ec2-metadata-token-ttl-seconds: 60" {URL}/api/token)'
Get = Callable[[str], str]


@pytest.fixture(scope="module")
def address(cloud: LocalCloud) -> str:
    """The address of a member of a group whose launch template names a profile."""
    policy = {"Version": "2012-10-17", "Statement": []}
    cloud.iam.create_role(RoleName="web", AssumeRolePolicyDocument=json.dumps(policy))
    cloud.iam.create_instance_profile(InstanceProfileName="web")
    cloud.iam.add_role_to_instance_profile(InstanceProfileName="web", RoleName="web")
    data = {"ImageId": cloud.base(), "InstanceType": "t3.small", "KeyName": "key"}
    cloud.ec2.create_launch_template(LaunchTemplateName="metadata", LaunchTemplateData=data)
    cloud.ec2.create_launch_template_version(  # profile and user data come with a later version
        LaunchTemplateName="metadata",
        LaunchTemplateData={**data, "IamInstanceProfile": {"Name": "web"}, "UserData": "aGk="},
    )
    cloud.autoscaling.create_auto_scaling_group(
        AutoScalingGroupName="metadata",
        LaunchTemplate={"LaunchTemplateName": "metadata", "Version": "$Latest"},
        MinSize=1,
        MaxSize=1,
        VPCZoneIdentifier=cloud.subnets[1],
        Tags=[{"Key": "role", "Value": "web", "PropagateAtLaunch": True}],
    )
    groups = cloud.autoscaling.describe_auto_scaling_groups(AutoScalingGroupNames=["metadata"])
    name = groups["AutoScalingGroups"][0]["Instances"][0]["InstanceId"]
    return str(cloud.instance(name)["PrivateIpAddress"])


@pytest.fixture
def get(cloud: LocalCloud, address: str) -> Get:
    def ask(path: str) -> str:
        header = f'-H "X-aws-ec2-metadata-token: {TOKEN}"'
        return str(cloud.ssh(address, f"curl -sS --fail {header} {URL}/{path}"))

    return ask


def test_an_instance_learns_who_and_where_it_is(cloud: LocalCloud, address: str, get: Get) -> None:
    name = get("meta-data/instance-id")
    assert cloud.instance(name)["PrivateIpAddress"] == address
    assert get("meta-data/local-ipv4") == address
    assert get("meta-data/placement/region") == "us-east-1"
    assert get("meta-data/placement/availability-zone") == "us-east-1b"
    assert get("meta-data/tags/instance/role") == "web"
    assert get("meta-data/autoscaling/target-lifecycle-state") == "InService"
    assert get("meta-data/public-keys/0/openssh-key") in cloud.ssh(
        address, "cat ~/.ssh/authorized_keys"
    )
    assert get("user-data") == "hi"
    document = json.loads(get("dynamic/instance-identity/document"))
    assert (document["instanceId"], document["privateIp"]) == (name, address)
    assert get("meta-data/iam/security-credentials/") == "web"
    credentials = json.loads(get("meta-data/iam/security-credentials/web"))
    assert credentials["Code"] == "Success"


@pytest.mark.parametrize(
    ("request_line", "status"),
    [
        (f"{URL}/meta-data/instance-id", "401"),
        (f"-H 'X-aws-ec2-metadata-token: guessed' {URL}/meta-data/instance-id", "401"),
        (f"-X PUT {URL}/api/token", "400"),
    ],
)
def test_without_a_token_it_says_nothing(
    cloud: LocalCloud, address: str, request_line: str, status: str
) -> None:
    command = f"curl -s -o /dev/null -w '%{{http_code}}' {request_line}"
    assert cloud.ssh(address, command) == status


def test_a_token_is_good_for_its_instance_only(cloud: LocalCloud, address: str) -> None:
    token = cloud.ssh(address, f"echo {TOKEN}")
    other = cloud.start()["PrivateIpAddress"]
    header = f"-H 'X-aws-ec2-metadata-token: {token}'"
    command = f"curl -s -o /dev/null -w '%{{http_code}}' {header} {URL}/meta-data/instance-id"
    assert wait("an answer", lambda: cloud.ssh(other, command)) == "401"
