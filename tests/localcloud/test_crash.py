"""Killed at any moment, `down` leaves nothing behind."""

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from localcloud.host.processes import living
from tests.localcloud.conftest import ROOT, LocalCloud

SEED = 20260101
ROUNDS = 10


def test_nothing_is_left_after_a_kill_at_a_random_moment(new_state: Callable[[str], Path]) -> None:
    """In namespaces of its own, so that what is left is this cloud's and nothing else's."""
    state = new_state("crash")
    prepare = "mount -t tmpfs tmpfs /run/localcloud; mount -t tmpfs tmpfs /run/netns"
    unshare = ["unshare", "--net", "--mount", "--pid", "--fork", "--mount-proc", "--kill-child"]
    for directory in ("/run/localcloud", "/run/netns"):
        Path(directory).mkdir(exist_ok=True)
    program = Path(__file__).with_name("crash.py")
    shell = f'{prepare}; ip link set lo up; sysctl -qw net.ipv4.ip_forward=0; exec "$@"'
    command = [*unshare, "sh", "-c", shell, "crash", sys.executable, str(program)]
    done = subprocess.run(
        [*command, str(state), str(SEED), str(ROUNDS)],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    print(done.stdout)
    assert done.returncode == 0, done.stdout + done.stderr


def test_a_base_image_that_was_killed_half_way_is_made_anew(tmp_path: Path) -> None:
    cloud = LocalCloud(tmp_path)
    seconds = random.Random(SEED).uniform(2, 6)
    words = [sys.executable, "-m", "localcloud", "--state", str(tmp_path), "up"]
    up = subprocess.Popen(words, cwd=ROOT, stdout=subprocess.DEVNULL)
    time.sleep(seconds)
    up.send_signal(signal.SIGKILL)
    up.wait()
    assert living(cloud.cloud), f"mmdebstrap had not begun after {seconds} s"
    cloud.down()
    assert living(cloud.cloud) == []
    assert list(cloud.cloud.images.glob("ami-*.json")) == []
    assert str(tmp_path) not in Path("/proc/self/mountinfo").read_text()
    cloud.down("--purge")
    assert not tmp_path.exists()
