"""Two clouds on one host do not meet."""

import subprocess
from collections.abc import Callable
from pathlib import Path

from tests.localcloud.conftest import LocalCloud, running


def test_two_clouds_beside_each_other(cloud: LocalCloud, new_state: Callable[[str], Path]) -> None:
    mine = cloud.start()["PrivateIpAddress"]
    with running(new_state("beside")) as other:
        theirs = other.start()["PrivateIpAddress"]
        assert not other.block.overlaps(cloud.block)
        assert other.ssh(theirs, "hostname") != cloud.ssh(mine, "hostname")
        assert cloud.ssh(mine, f"ping -c 1 -W 1 {theirs} >/dev/null; echo $?") == "1"
    assert cloud.ssh(mine, "hostname")  # the other's `down` leaves this one up
    links = subprocess.run(["ip", "-brief", "link"], capture_output=True, text=True, check=True)
    assert cloud.cloud.link in links.stdout and other.cloud.link not in links.stdout
