"""Images are what was frozen, and outlive the cloud."""

from typing import Any

import pytest
from botocore.exceptions import ClientError

from tests.localcloud.conftest import LocalCloud, wait


def image(cloud: LocalCloud, image_id: str) -> dict[str, Any]:
    found: dict[str, Any] = cloud.ec2.describe_images(ImageIds=[image_id])["Images"][0]
    return found


def bake(cloud: LocalCloud, instance_id: str, **options: Any) -> str:
    image_id: str = cloud.ec2.create_image(InstanceId=instance_id, **options)["ImageId"]
    wait("the image", lambda: image(cloud, image_id)["State"] == "available")
    return image_id


def test_an_image_boots_with_what_was_frozen(cloud: LocalCloud) -> None:
    builder = cloud.start()
    name, address = builder["InstanceId"], builder["PrivateIpAddress"]
    # A file that is new, one that is removed, a directory that is replaced: whiteout, opaque.
    cloud.ssh(address, "sudo sh -c 'echo baked > /srv/new; rm /etc/debian_version'")
    cloud.ssh(
        address, "sudo sh -c 'rm -r /usr/share/doc; mkdir /usr/share/doc; touch /usr/share/doc/x'"
    )
    tags = [{"ResourceType": "image", "Tags": [{"Key": "role", "Value": "web"}]}]
    first = bake(cloud, name, Name="first", TagSpecifications=tags)
    # By default the machine was restarted for it, and goes on with all it had.
    assert cloud.ssh(address, "cat /srv/new") == "baked"

    machine = cloud.start(ImageId=first)["PrivateIpAddress"]
    assert cloud.ssh(machine, "systemctl is-system-running --wait") == "running"
    assert cloud.ssh(machine, "cat /srv/new; ls /usr/share/doc") == "baked\nx"
    assert cloud.ssh(machine, "test ! -e /etc/debian_version; echo $?") == "0"
    its_own = "cat /etc/machine-id /etc/ssh/ssh_host_*.pub /etc/hostname"
    assert not set(cloud.ssh(machine, its_own).split()) & (
        set(cloud.ssh(address, its_own).split()) - {"ssh-ed25519"}
    )

    # Without a restart, and a layer above the first one.
    boot = cloud.ssh(machine, "systemctl show --property=UserspaceTimestampMonotonic")
    cloud.ssh(machine, "echo more | sudo tee /srv/more")
    members = cloud.ec2.describe_instances(
        Filters=[{"Name": "private-ip-address", "Values": [machine]}, RUNNING]
    )["Reservations"]
    second = bake(cloud, members[0]["Instances"][0]["InstanceId"], Name="second", NoReboot=True)
    assert cloud.ssh(machine, "systemctl show --property=UserspaceTimestampMonotonic") == boot
    third = cloud.start(ImageId=second)["PrivateIpAddress"]
    assert cloud.ssh(third, "cat /srv/new /srv/more; ls /usr/share/doc") == "baked\nmore\nx"

    # The layers of a removed image stay while others stand on them.
    layers = cloud.cloud.images / "layers"
    before = len(list(layers.iterdir()))
    cloud.ec2.deregister_image(ImageId=first)
    assert cloud.ssh(cloud.start(ImageId=second)["PrivateIpAddress"], "cat /srv/new") == "baked"
    with pytest.raises(ClientError, match="InvalidAMIID"):
        cloud.start(ImageId=first)
    assert len(list(layers.iterdir())) == before

    # Images with their names and tags, and parameters, outlive the cloud; instances do not.
    cloud.ec2.create_tags(Resources=[second], Tags=[{"Key": "git", "Value": "abc"}])
    parameter = {"Name": "/secrets/a", "Value": "s3cret", "Type": "SecureString"}
    cloud.ssm.put_parameter(**parameter, Tags=[{"Key": "fleet", "Value": "superset"}])
    assert cloud.cloud.parameters.stat().st_mode & 0o777 == 0o600
    cloud.down()
    cloud.up()
    assert image(cloud, second)["Name"] == "second"
    assert image(cloud, second)["Tags"] == [{"Key": "git", "Value": "abc"}]
    value = cloud.ssm.get_parameter(Name="/secrets/a", WithDecryption=True)["Parameter"]
    assert (value["Value"], value["Type"]) == ("s3cret", "SecureString")
    assert cloud.ec2.describe_instances()["Reservations"] == []
    address = cloud.start(ImageId=second)["PrivateIpAddress"]
    assert cloud.ssh(address, "cat /srv/new /srv/more") == "baked\nmore"


def test_a_layer_goes_with_its_last_image(cloud: LocalCloud) -> None:
    name = cloud.start()["InstanceId"]
    layers = cloud.cloud.images / "layers"
    before = set(layers.iterdir())
    baked = bake(cloud, name, Name="short-lived")
    assert len(set(layers.iterdir()) - before) == 1
    cloud.ec2.deregister_image(ImageId=baked)
    cloud.ec2.terminate_instances(InstanceIds=[name])
    wait("the layer goes", lambda: set(layers.iterdir()) <= before)


def test_an_image_of_an_instance_that_is_terminated_at_once_is_made(cloud: LocalCloud) -> None:
    name = cloud.start()["InstanceId"]
    created = cloud.ec2.create_image(InstanceId=name, Name="hasty")["ImageId"]
    cloud.ec2.terminate_instances(InstanceIds=[name])
    wait("the image", lambda: image(cloud, created)["State"] == "available")
    cloud.ec2.deregister_image(ImageId=created)


def test_an_image_of_a_machine_that_never_was_fails(cloud: LocalCloud) -> None:
    vpc = cloud.ec2.create_vpc(CidrBlock="10.1.0.0/24")["Vpc"]["VpcId"]
    subnet = cloud.ec2.create_subnet(VpcId=vpc, CidrBlock="10.1.0.0/24")["Subnet"]["SubnetId"]
    name = cloud.start(SubnetId=subnet)["InstanceId"]
    created = cloud.ec2.create_image(InstanceId=name, Name="nothing")["ImageId"]
    wait("the image", lambda: image(cloud, created)["State"] == "failed")
    assert "use a subnet in a VPC of this block" in cloud.cloud.log.read_text()
    assert not (cloud.cloud.images / f"{created}.json").exists()


RUNNING = {"Name": "instance-state-name", "Values": ["running"]}
