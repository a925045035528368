"""Kill a local cloud at random moments, take it down, and compare the host before and after.

crash.py STATE SEED ROUNDS      in network, mount and process namespaces of its own
"""

import contextlib
import os
import random
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

from conftest import LocalCloud

from localcloud.network import SYSCTLS


def host(cloud: LocalCloud) -> dict[str, set[str]]:
    """What a cloud could leave behind."""

    def lines(*command: str) -> set[str]:
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        return set(done.stdout.splitlines())

    processes = set()
    for entry in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            words = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode()
            if int(entry.name) != os.getpid() and "localcloud" in words + str(cloud.state):
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
            str(path) for path in Path("/sys/fs/cgroup").glob(f"**/{cloud.cloud.name}*")
        },
        "files": {str(path) for path in Path("/run").glob("netns/*")}
        | {str(path) for path in Path("/run/systemd/nspawn").glob("*/*")},
    }


def start_machines(cloud: LocalCloud) -> None:
    """Bring it up and use it, until it is killed."""
    with contextlib.suppress(Exception):  # the API goes away in the middle: that is the point
        cloud.up()
        for _ in range(3):
            cloud.start()


def kill(cloud: LocalCloud, victims: str) -> None:
    for pid in cloud.cloud.processes():
        with contextlib.suppress(OSError):
            words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
            if victims == "all" or b"daemon" in words:
                os.kill(pid, signal.SIGKILL)


def main() -> int:
    state, seed, rounds = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])
    print("seed", seed)
    chance = random.Random(seed)
    cloud = LocalCloud(state)
    before = host(cloud)
    for number in range(rounds):
        seconds, victims = chance.uniform(0.1, 4.5), chance.choice(["up", "daemon", "all"])
        user = threading.Thread(target=start_machines, args=[cloud])
        user.start()
        time.sleep(seconds)
        for entry in Path("/proc").glob("[0-9]*"):  # `up` itself, where it still runs
            with contextlib.suppress(OSError):
                if (entry / "cmdline").read_bytes().endswith(b"\0up\0"):
                    os.kill(int(entry.name), signal.SIGKILL)
        if victims != "up":
            kill(cloud, victims)
        began = time.monotonic()
        cloud.down()
        took = time.monotonic() - began
        user.join()
        cloud.down()  # what the user's last calls may have started
        left = {what: now - before[what] for what, now in host(cloud).items()}
        gone = {what: before[what] - now for what, now in host(cloud).items()}
        differences = {
            f"{how} {what}": change
            for how, changes in (("left", left), ("gone", gone))
            for what, change in changes.items()
            if change
        }
        print(f"round {number}: killed {victims} after {seconds:.2f} s, down in {took:.1f} s")
        if differences:
            print(differences)
            return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
