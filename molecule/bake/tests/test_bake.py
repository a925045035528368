"""What an image carries on to the machines made from it, and what it does not."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import boto3
import pytest
import yaml
from image_secrets import findings

from superset_fleet.control.ask import ROOT
from tests.support.deployed import machines

IMAGES = ROOT / ".localcloud" / "images"
PLANTED = "/opt/app/settings.py"


def play(playbook: str, variables: dict[str, Any], **environment: str) -> Any:
    """Run a playbook; return its status and what it said."""
    ansible = str(Path(sys.executable).with_name("ansible-playbook"))
    return subprocess.run(
        [ansible, playbook, "--extra-vars", json.dumps(variables)],
        cwd=ROOT,
        env=os.environ | {"ANSIBLE_CONFIG": str(ROOT / "ansible.cfg")} | environment,
        capture_output=True,
        text=True,
    )


def images() -> list[dict[str, Any]]:
    """Return the images of the fleet, the newest one last."""
    known = [json.loads(path.read_text()) for path in IMAGES.glob("ami-*.json")]
    known = [image for image in known if image["tags"].get("fleet")]
    return sorted(known, key=lambda image: str(image["created"]))


@pytest.fixture(scope="module")
def aws() -> Any:
    """EC2 of the local cloud."""
    os.environ["AWS_CONFIG_FILE"] = str(ROOT / ".localcloud/aws.ini")
    return boto3.Session().client("ec2")


@pytest.fixture(scope="module")
def frozen() -> Path:
    """The file tree of what the newest image has besides the base image."""
    return IMAGES / "layers" / images()[-1]["layers"][0]


@pytest.fixture(scope="module")
def secrets() -> dict[str, bytes]:
    """The fleet's passwords, value by name."""
    known = machines.facts()
    secret = re.compile(r"_password$|^haproxy_certificate$|^superset_secret_key$")
    return {name: value.strip().encode() for name, value in known.items() if secret.search(name)}


def test_no_key_password_or_token_was_frozen(frozen: Path, secrets: dict[str, bytes]) -> None:
    found, count = findings(frozen, secrets)
    assert found == []
    assert count > 10_000
    assert len(secrets) > 5


def test_what_belongs_to_one_machine_was_not_frozen(frozen: Path) -> None:
    assert (frozen / "etc/machine-id").read_text() in ("", "uninitialized\n")
    assert [*(frozen / "etc/ssh").glob("ssh_host_*")] == []
    logs = [path for path in (frozen / "var/log").rglob("*") if path.is_file()]
    assert [path for path in logs if path.stat().st_size > 4096] == []


def test_machines_of_one_image_have_their_own_keys_and_ids() -> None:
    found = [
        machine.run("cat /etc/machine-id; sha256sum < /etc/ssh/ssh_host_ed25519_key").split()
        for machine in machines.find("superset_web:celery_worker")
    ]
    ids, keys = {one[0] for one in found}, {one[1] for one in found}
    assert len(found) > 1
    assert len(ids) == len(keys) == len(found)
    assert all(re.fullmatch("[0-9a-f]{32}", one) for one in ids)


def test_a_planted_secret_stops_the_bake_and_leaves_no_image_and_no_builder(
    tmp_path: Path, secrets: dict[str, bytes]
) -> None:
    """A role of the image that leaves one behind, in an image that has little else, to be quick."""
    tasks = tmp_path / "careless" / "tasks" / "install.yml"
    tasks.parent.mkdir(parents=True)
    content = {
        "dest": PLANTED,
        "content": "PASSWORD = '{{ vault_redis_cache_password }}'\n",
        "mode": "0600",
    }
    directory = {"path": str(Path(PLANTED).parent), "state": "directory", "mode": "0755"}
    steps = [
        {"name": "Make a directory", "ansible.builtin.file": directory},
        {"name": "Leave a password", "ansible.builtin.copy": content, "no_log": True},
    ]
    tasks.write_text(yaml.safe_dump(steps))
    before = images()
    done = play(
        "playbooks/bake.yml",
        {"fleet_image_roles": ["common", "careless"]},
        ANSIBLE_ROLES_PATH=f"{ROOT / 'roles'}:{tmp_path}",
    )
    told = re.sub(r"\s+", " ", done.stdout)
    assert done.returncode != 0, told
    assert f"{PLANTED} (value of vault_redis_cache_password)" in told
    assert secrets["redis_cache_password"].decode() not in done.stdout + done.stderr
    assert images() == before
    status = [sys.executable, "-m", "localcloud", "status", "--json"]
    machines_left = json.loads(subprocess.check_output(status, cwd=ROOT))["machines"]
    known = {machine.name for machine in machines.find()}
    running = {one["instance"] for one in machines_left if one["state"] == "running"}
    assert running <= known


def test_only_the_newest_images_are_kept(tmp_path: Path, aws: Any) -> None:
    """Images of a fleet that has nothing else, and whose images have no file systems."""
    fleet = "pruned"
    (base,) = aws.describe_images(Filters=[{"Name": "tag:name", "Values": ["debian-12"]}])["Images"]
    made = []
    for number in range(4):
        copy = {"SourceImageId": base["ImageId"], "SourceRegion": "us-east-1"}
        made.append(aws.copy_image(**copy, Name=f"{fleet}-{number}")["ImageId"])
        kind = "rejected" if number == 0 else "superset"
        tags = [{"Key": "fleet", "Value": fleet}, {"Key": "kind", "Value": kind}]
        aws.create_tags(Resources=made[-1:], Tags=tags)
    look = {
        "name": "Look",
        "fleet_survey": {
            "fleet": fleet,
            "region": "{{ fleet_region }}",
            "base_image": "{{ fleet_base_image }}",
        },
        "register": "survey",
    }
    old_images = f"{ROOT}/playbooks/tasks/image/old_images.yml"
    tasks = [look, {"ansible.builtin.import_tasks": old_images}]
    environment = "{{ fleet_aws_environment }}"
    playbook = tmp_path / "prune.yml"
    playbook.write_text(
        yaml.safe_dump([{"hosts": "localhost", "environment": environment, "tasks": tasks}])
    )
    done = play(str(playbook), {"fleet_images_kept": 2})
    assert done.returncode == 0, done.stdout
    left = aws.describe_images(Filters=[{"Name": "tag:fleet", "Values": [fleet]}])["Images"]
    for image in left:
        aws.deregister_image(ImageId=image["ImageId"])
    assert {image["ImageId"] for image in left} == set(made[2:])
