"""What fleet-membership costs with 1000 servers: calls of AWS's API, processor time, memory.

    .venv/bin/python -m benchmarks.membership.thousand [polls [seconds between two polls]]

AWS is a server on this machine that answers from memory, with 1000 instances in ten auto-scaling
groups; HAProxy is a real one, with a server for each. Nothing listens behind these: what is
measured is the idle state, in which everything is as wanted.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import threading
from collections import Counter
from dataclasses import asdict
from http.server import ThreadingHTTPServer
from pathlib import Path
from typing import Any

from benchmarks.inventory import replay
from superset_fleet.membership.daemon import Settings
from tests.support.haproxy_server import BACKEND, OPTIONS, balancer
from tests.support.waiting import until

PORT = 8088
CALLS: Counter[str] = Counter()
CONFIG = "[default]\naws_access_key_id = key\naws_secret_access_key = secret\nendpoint_url = {}\n"


class Handler(replay.Handler):
    """Counts the calls."""

    def DescribeAutoScalingGroups(self, request: dict[str, str]) -> Any:
        CALLS["DescribeAutoScalingGroups"] += 1
        return super().DescribeAutoScalingGroups(request)

    def DescribeInstances(self, request: dict[str, str]) -> Any:
        CALLS["DescribeInstances"] += 1
        return super().DescribeInstances(request)


def processor_seconds(pid: int) -> float:
    """Return user and system time of a process."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def status(pid: int, name: str) -> float:
    """Return a size from a process's status, in MiB."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    line = next(line for line in lines if line.startswith(f"{name}:"))
    return int(line.split()[1]) / 1024


def main(polls: int, poll_seconds: float) -> None:
    """Measure, and print a table."""
    machines = Handler.machines = [
        replay.Machine(
            f"i-0{number:016x}",
            "superset_web",
            f"superset-web-{number // 100}",
            f"127.1.{number >> 8}.{number & 255}",
            replay.ZONES[number % 3],
        )
        for number in range(1000)
    ]
    Handler.instances = {one: replay.instance_xml(one) for one in machines}
    groups: dict[str, list[replay.Machine]] = {}
    for one in machines:
        groups.setdefault(str(one.group), []).append(one)
    Handler.groups = [replay.group_xml(name, members) for name, members in groups.items()]
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()

    servers = {one.id: f"{one.address}:{PORT}" for one in machines}
    with tempfile.TemporaryDirectory() as name, balancer(Path(name), servers=servers) as haproxy:
        config_file, config = Path(name, "aws.ini"), Path(name, "membership.json")
        config_file.write_text(CONFIG.format(f"http://127.0.0.1:{server.server_port}"))
        settings = Settings(
            region="us-east-1",
            backend=BACKEND,
            port=PORT,
            server_options=OPTIONS,
            probe_path="/ready",
            poll_seconds=poll_seconds,
            socket=haproxy.socket,
            directory=name,
            aws_config_file=str(config_file),
        )
        config.write_text(json.dumps(asdict(settings)))
        command = [sys.executable, "-m", "superset_fleet.membership", "--config", str(config)]
        with subprocess.Popen(command) as daemon:
            # The first poll asks for all addresses, and the second one for none.
            until(lambda: CALLS["DescribeAutoScalingGroups"] > 1, "it polls", 300)
            before = processor_seconds(daemon.pid)
            CALLS.clear()
            until(lambda: CALLS["DescribeAutoScalingGroups"] >= polls, "it polls", 3600)
            used = processor_seconds(daemon.pid) - before
            now, most = status(daemon.pid, "VmRSS"), status(daemon.pid, "VmHWM")
            daemon.terminate()
        assert haproxy.in_use() == servers
    print("\n| what | figure |\n|---|---|")
    print(f"| calls for {polls} polls | {dict(CALLS)} |")
    print(f"| of one core, a poll each {poll_seconds:g} s | {used / polls / poll_seconds:.2%} |")
    print(f"| processor time of a poll | {used / polls * 1000:.0f} ms |")
    print(f"| resident, most of it ever | {now:.0f} MiB, {most:.0f} MiB |")


if __name__ == "__main__":
    given = sys.argv[1:]
    main(*(int(given[0]) if given else 30, float(given[1]) if given[1:] else 2.0))
