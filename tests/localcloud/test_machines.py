"""Machines follow instances, and instances follow machines."""

import os
import signal
from pathlib import Path

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from tests.localcloud.conftest import LocalCloud, wait

# After ssh has said goodbye.
SOON = "sudo systemd-run --quiet --on-active=0.2 --timer-property=AccuracySec=10ms"


def nspawn(instance_id: str) -> int | None:
    """The process of a machine on the host."""
    for entry in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = entry.read_bytes().split(b"\0")
        except OSError:
            continue
        if words[0].endswith(b"systemd-nspawn") and f"--machine={instance_id}".encode() in words:
            return int(entry.parent.name)
    return None


def test_an_instance_becomes_a_machine_and_goes_with_it(cloud: LocalCloud) -> None:
    instance = cloud.start()
    name, address = instance["InstanceId"], instance["PrivateIpAddress"]
    assert cloud.ssh(address, "systemctl is-system-running --wait") == "running"
    assert cloud.ssh(address, "hostname") == "ip-" + address.replace(".", "-")
    assert address in cloud.ssh(address, "ip -brief address show host0")
    assert cloud.ssh(address, "sudo id -u") == "0"
    assert cloud.instance(name)["State"]["Name"] == "running"

    cloud.ec2.terminate_instances(InstanceIds=[name])
    wait("the machine goes", lambda: nspawn(name) is None)
    wait("its files go", lambda: not (cloud.cloud.machines / name).exists())
    assert not cloud.reachable(address)
    assert cloud.instance(name)["State"]["Name"] == "terminated"


def test_an_address_is_free_again_after_its_instance(cloud: LocalCloud) -> None:
    address = str(cloud.block[100])
    first = cloud.start(PrivateIpAddress=address)["InstanceId"]
    cloud.ssh(address, "sudo touch /first")
    cloud.ec2.terminate_instances(InstanceIds=[first])
    wait("the machine goes", lambda: cloud.machine(first) is None)
    wait("the address is free", lambda: cloud.start(PrivateIpAddress=address))
    assert cloud.ssh(address, "ls /") != ""
    assert "first" not in cloud.ssh(address, "ls /").split()


def test_an_imported_key_logs_in_and_no_other(cloud: LocalCloud, tmp_path: Path) -> None:
    key = Ed25519PrivateKey.generate()
    public = key.public_key().public_bytes(
        serialization.Encoding.OpenSSH, serialization.PublicFormat.OpenSSH
    )
    cloud.ec2.import_key_pair(KeyName="imported", PublicKeyMaterial=public)
    address = cloud.start(KeyName="imported")["PrivateIpAddress"]
    other = LocalCloud(cloud.state)
    other.key = tmp_path / "key"
    other.key.touch(mode=0o600)
    other.key.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.OpenSSH,
            serialization.NoEncryption(),
        )
    )
    assert other.ssh(address, "cat ~/.ssh/authorized_keys") == public.decode()


def test_a_stopped_instance_keeps_its_disk(cloud: LocalCloud) -> None:
    instance = cloud.start()
    name, address = instance["InstanceId"], instance["PrivateIpAddress"]
    identity = cloud.ssh(address, "echo kept > keep; cat /etc/machine-id /etc/ssh/ssh_host_*.pub")
    cloud.ec2.stop_instances(InstanceIds=[name])
    wait("the machine stops", lambda: nspawn(name) is None)
    cloud.ec2.start_instances(InstanceIds=[name])
    assert cloud.ssh(address, "cat keep") == "kept"
    assert cloud.ssh(address, "cat /etc/machine-id /etc/ssh/ssh_host_*.pub") == identity


def test_a_reboot_by_the_api_and_one_from_inside(cloud: LocalCloud) -> None:
    instance = cloud.start()
    name, address = instance["InstanceId"], instance["PrivateIpAddress"]
    boot_id = "systemctl show --property=UserspaceTimestampMonotonic"
    first, process = cloud.ssh(address, boot_id), nspawn(name)
    cloud.ec2.reboot_instances(InstanceIds=[name])
    wait("another process", lambda: nspawn(name) not in (None, process))
    second, process = cloud.ssh(address, boot_id), nspawn(name)
    assert second != first
    cloud.ssh(address, f"{SOON} systemctl reboot")
    wait("another process", lambda: nspawn(name) not in (None, process))
    assert cloud.ssh(address, boot_id) != second
    assert cloud.instance(name)["State"]["Name"] == "running"


def test_an_instance_that_powers_itself_off_is_stopped(cloud: LocalCloud) -> None:
    instance = cloud.start()
    name = instance["InstanceId"]
    cloud.ssh(instance["PrivateIpAddress"], f"{SOON} poweroff")
    wait("stopped", lambda: cloud.instance(name)["State"]["Name"] == "stopped")


def test_an_instance_outside_the_block_says_why_it_has_no_machine(cloud: LocalCloud) -> None:
    vpc = cloud.ec2.create_vpc(CidrBlock="10.0.0.0/24")["Vpc"]["VpcId"]
    subnet = cloud.ec2.create_subnet(VpcId=vpc, CidrBlock="10.0.0.0/24")["Subnet"]["SubnetId"]
    name = cloud.start(SubnetId=subnet)["InstanceId"]
    machine = wait("failed", lambda: (cloud.machine(name) or {}).get("state") == "failed")
    machine = cloud.machine(name)
    assert machine is not None and "use a subnet in a VPC of this block" in machine["reason"]
    assert name in cloud.cloud.log.read_text()


def test_a_guest_reaches_the_package_archives(cloud: LocalCloud) -> None:
    address = cloud.start()["PrivateIpAddress"]
    install = "sudo apt-get install --yes --quiet=2 --no-install-recommends python3-venv"
    cloud.ssh(address, f"sudo apt-get update --quiet=2 && {install} >/dev/null 2>&1")
    cloud.ssh(address, "python3 -m venv venv && venv/bin/pip download --quiet --no-deps six")
    assert "six" in cloud.ssh(address, "ls")


def test_up_again_does_nothing(cloud: LocalCloud) -> None:
    assert cloud.command("up").stdout.startswith("already up")


def test_a_member_that_is_killed_is_replaced(cloud: LocalCloud) -> None:
    template = cloud.ec2.create_launch_template(
        LaunchTemplateName="killed",
        LaunchTemplateData={"ImageId": cloud.base(), "InstanceType": "t3.small", "KeyName": "key"},
    )["LaunchTemplate"]["LaunchTemplateId"]
    cloud.autoscaling.create_auto_scaling_group(
        AutoScalingGroupName="killed",
        LaunchTemplate={"LaunchTemplateId": template},
        MinSize=1,
        MaxSize=1,
        VPCZoneIdentifier=",".join(cloud.subnets),
    )

    def member() -> str:
        groups = cloud.autoscaling.describe_auto_scaling_groups(AutoScalingGroupNames=["killed"])
        return str(groups["AutoScalingGroups"][0]["Instances"][0]["InstanceId"])

    first = member()
    cloud.ssh(cloud.instance(first)["PrivateIpAddress"], "true")
    process = nspawn(first)
    assert process is not None
    os.kill(process, signal.SIGKILL)
    wait("a replacement", lambda: member() != first, seconds=5)
    assert cloud.ssh(cloud.instance(member())["PrivateIpAddress"], "hostname")
    assert cloud.instance(first)["State"]["Name"] == "terminated"
    cloud.autoscaling.delete_auto_scaling_group(AutoScalingGroupName="killed", ForceDelete=True)
    wait("no member is left", lambda: nspawn(first) is None)


def test_what_a_machine_writes_to_its_console_is_kept(cloud: LocalCloud) -> None:
    instance = cloud.start()
    cloud.ssh(instance["PrivateIpAddress"], "echo said on the console | sudo tee /dev/console")
    console = cloud.cloud.machines / instance["InstanceId"] / "console.log"
    wait("the line in the log", lambda: "said on the console" in console.read_text())
