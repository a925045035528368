"""Kill a local cloud at random moments, take it down, and compare the host before and after.

crash.py STATE SEED ROUNDS      in network, mount and process namespaces of its own
"""

import contextlib
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

from localcloud.host.network import SYSCTLS
from localcloud.host.processes import living
from tests.localcloud.conftest import LocalCloud


def host(cloud: LocalCloud) -> dict[str, set[str]]:
    """What a cloud could leave behind."""

    def lines(*command: str) -> set[str]:
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        return set(done.stdout.splitlines())

    processes = set()
    for entry in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            words = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode()
            if words and int(entry.name) != os.getpid():  # a zombie has no words; init reaps it
                processes.add(f"{entry.name} {words}")
    sysctls = ["net.ipv4.conf.all.forwarding", "net.ipv4.conf.default.forwarding", *SYSCTLS]
    return {
        "processes": processes,
        "mounts": set(Path("/proc/self/mountinfo").read_text().splitlines()),
        "links": lines("ip", "-brief", "link"),
        "routes": lines("ip", "route", "show", "table", "all"),
        "rules": lines("nft", "list", "ruleset"),
        "sysctls": lines("sysctl", *sysctls),
        "control groups": {
            directory  # groups of other clouds may vanish meanwhile; os.walk does not fail then
            for directory, _, _ in os.walk("/sys/fs/cgroup")
            if cloud.cloud.name in directory
        },
        "files": {str(path) for path in Path("/run").glob("netns/*")}
        | {str(path) for path in Path("/run/systemd/nspawn").glob("*/*")},
    }


def use(cloud: LocalCloud) -> None:
    """Bring it up and have machines come and go, until killed."""
    cloud.up()
    while True:
        names = [cloud.start()["InstanceId"] for _ in range(3)]
        time.sleep(1.5)
        cloud.ec2.terminate_instances(InstanceIds=names)


def kill(cloud: LocalCloud, user: subprocess.Popen[bytes], victims: str) -> None:
    """Kill `up` and who runs it, and of the cloud what `victims` says: "up", "daemon" or "all".

    "up" is nothing more, "daemon" also its daemon, "all" every process of the cloud.
    """
    user.kill()
    user.wait()
    own = living(cloud.cloud) if victims != "up" else []
    for entry in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            words = (entry / "cmdline").read_bytes().split(b"\0")
            its = int(entry.name) in own and (victims == "all" or b"localcloud.server" in words)
            if its or words[-2:] == [b"up", b""]:
                os.kill(int(entry.name), signal.SIGKILL)


def main() -> int:
    state, seed, rounds = Path(sys.argv[1]), sys.argv[2], sys.argv[3]
    cloud = LocalCloud(state)
    if seed == "use":
        use(cloud)
    print("seed", seed)
    chance = random.Random(seed)
    before = host(cloud)
    for number in range(int(rounds)):
        seconds, victims = chance.uniform(0.5, 7), chance.choice(["up", "daemon", "all"])
        user = subprocess.Popen([sys.executable, __file__, str(state), "use", ""])
        time.sleep(seconds)
        there = {what: len(now - before[what]) for what, now in host(cloud).items()}
        kill(cloud, user, victims)
        began = time.monotonic()
        cloud.down()
        print(
            f"round {number}: after {seconds:.2f} s there were {there};",
            f"killed {victims}, down in {time.monotonic() - began:.1f} s",
        )
        after = host(cloud)
        left = {what: after[what] - before[what] for what in after if after[what] - before[what]}
        gone = {what: before[what] - after[what] for what in after if before[what] - after[what]}
        if left or gone:
            print("left:", left, "gone:", gone)
            return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
