"""launch_templates: what machines start from, and when there is another version."""

import base64
from dataclasses import replace
from typing import Any

import pytest
from launch_templates import Template, TemplateError, plan, wanted_data

WEB, WORKER = "superset-superset_web", "superset-reports"
OPTIONS: dict[str, Any] = {
    "fleet": "superset",
    "region": "us-east-1",
    "groups": {"superset_web": {}, "reports": {"role": "celery_worker", "queues": ["reports"]}},
    "image_id": "ami-1",
    "root_device_name": "/dev/xvda",
    "instance_types": {"superset_web": "t3.medium", "celery_worker": "t3.large"},
    "volume_sizes_gb": {"superset_web": 15, "celery_worker": 20},
    "security_groups": {"superset_web": "sg-1", "celery_worker": "sg-2"},
    "queues": ["sql_lab"],
    "user_data": "",
    "tags": {"fleet": "superset"},
}


def test_a_group_starts_with_what_its_role_has() -> None:
    data = wanted_data(OPTIONS)[WORKER]
    assert (data["InstanceType"], data["SecurityGroupIds"]) == ("t3.large", ["sg-2"])
    assert data["IamInstanceProfile"] == {"Name": "superset-us-east-1-celery_worker"}
    [volume] = data["BlockDeviceMappings"]
    assert volume["DeviceName"] == "/dev/xvda"
    assert (volume["Ebs"]["VolumeSize"], volume["Ebs"]["Encrypted"]) == (20, True)
    assert data["MetadataOptions"]["HttpTokens"] == "required"


def test_only_workers_are_tagged_with_queues() -> None:
    def tagged(name: str) -> dict[str, dict[str, str]]:
        return {
            one["ResourceType"]: {tag["Key"]: tag["Value"] for tag in one["Tags"]}
            for one in wanted_data(OPTIONS)[name]["TagSpecifications"]
        }

    assert tagged(WEB) == {"volume": {"fleet": "superset"}}
    assert tagged(WORKER)["instance"] == {"queues": "reports"}


def test_user_data_are_given_where_there_are_some() -> None:
    assert "UserData" not in wanted_data(OPTIONS)[WEB]
    data = wanted_data(OPTIONS | {"user_data": "[default]\n"})[WEB]
    assert base64.b64decode(data["UserData"]) == b"[default]\n"


def test_another_version_is_made_only_where_the_newest_one_says_something_else() -> None:
    wanted = wanted_data(OPTIONS)
    there = {name: Template(data, newest=3, default=3) for name, data in wanted.items()}
    assert plan(there, wanted) == []
    assert [str(step) for step in plan(there, wanted_data(OPTIONS | {"image_id": "ami-2"}))] == [
        f"make a version of {WEB}",
        f"make a version of {WORKER}",
    ]
    assert [str(step) for step in plan({}, wanted)] == [f"create {WEB}", f"create {WORKER}"]


def test_the_newest_version_is_the_default_one() -> None:
    wanted = wanted_data(OPTIONS)
    there = {name: Template(data) for name, data in wanted.items()}
    there[WEB] = replace(there[WEB], newest=2)
    assert [(str(step), step.value) for step in plan(there, wanted)] == [
        (f"set the default version of {WEB}", 2)
    ]


@pytest.mark.parametrize("lacking", ["instance_types", "volume_sizes_gb", "security_groups"])
def test_a_role_without_what_its_machines_need_is_refused(lacking: str) -> None:
    with pytest.raises(TemplateError, match=f"{lacking} has no celery_worker"):
        wanted_data(OPTIONS | {lacking: {"superset_web": "1"}})
