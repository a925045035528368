"""What a cloud keeps when its daemon is killed: images and parameters, but no instance.

So no group and no lifecycle action outlives it, either: an action belongs to its instance.
"""

import json
import os
import signal
from collections.abc import Callable
from pathlib import Path

from tests.localcloud.conftest import Group, running


def test_after_a_crash_the_cloud_comes_up_without_those_who_waited(
    new_state: Callable[[str], Path],
) -> None:
    with running(new_state("restart")) as cloud:
        group = Group(cloud, "group", image=cloud.base(), DesiredCapacity=0)
        group.hook("launch", "LAUNCHING")
        group.scale(1)
        [name] = group.names("Pending:Wait")
        cloud.ssh(cloud.instance(name)["PrivateIpAddress"], "true")
        cloud.ssm.put_parameter(Name="kept", Value="yes", Type="String")
        assert cloud.command("pause", name).returncode == 0
        report = json.loads(cloud.command("status", "--json").stdout)
        assert [wait["instance"] for wait in report["waiting"]] == [name]
        os.kill(report["pid"], signal.SIGKILL)
        cloud.up()
        assert cloud.ssm.get_parameter(Name="kept")["Parameter"]["Value"] == "yes"
        assert cloud.autoscaling.describe_auto_scaling_groups()["AutoScalingGroups"] == []
        report = json.loads(cloud.command("status", "--json").stdout)
        assert (report["waiting"], report["machines"]) == ([], [])
