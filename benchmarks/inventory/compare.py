"""What a play pays for its inventory: `asg` beside a static file and amazon.aws.aws_ec2.

    .venv/bin/python -m benchmarks.inventory.compare [repetitions [thousands of instances]]

Every inventory knows the same instances, and gives `ansible all --list-hosts`. AWS is a server on
this machine that answers from memory, so the figures are the client's cost alone; AWS's own time
comes on top, for every API call. The repetitions are interleaved and the minimum counts: what else
runs on the machine can only make a run slower.
"""

from __future__ import annotations

import json
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from benchmarks.inventory.replay import Machine, fleet

ROOT = Path(__file__).parents[2]
BIN = Path(sys.executable).parent

ASG = """
plugin: asg
environment: aws
regions: [us-east-1]
endpoint_url: {endpoint}
cache_path: cache
"""

# What one would write to have the groups and variables that asg gives.
AWS_EC2 = """
plugin: amazon.aws.aws_ec2
regions: [us-east-1]
endpoint_url: {endpoint}
filters:
  tag:fleet: superset
  instance-state-name: [pending, running]
hostnames: [instance-id]
keyed_groups:
  - key: tags.role
    separator: ""
  - key: tags["aws:autoscaling:groupName"] | default("")
    prefix: asg
  - key: placement.availability_zone
    prefix: zone
groups:
  in_service: state.name == 'running'
  cloud: true
  aws: true
compose:
  ansible_host: private_ip_address
  private_address: private_ip_address
  zone: placement.availability_zone
"""


def static(machines: list[Machine]) -> str:
    """Return the same hosts, groups and variables as a static inventory in JSON."""
    groups: dict[str, dict[str, dict[str, None]]] = {}
    for one in machines:
        zone = f"zone_{one.zone.replace('-', '_')}"
        names = ["aws", "in_service", one.role, zone]
        if one.group:
            names.append(f"asg_{one.group.replace('-', '_')}")
        for name in names:
            groups.setdefault(name, {"hosts": {}})["hosts"][one.id] = None
    hosts = {
        one.id: {"ansible_host": one.address, "private_address": one.address, "zone": one.zone}
        | ({"lifecycle_state": "InService"} if one.group else {})
        for one in machines
    }
    children = {**groups, "cloud": {"children": {"aws": None}}}
    return json.dumps({"all": {"hosts": hosts, "children": children}})


def list_hosts(source: Path, plugin: str) -> tuple[float, float]:
    """Return wall and processor time of one run, in seconds."""
    environment = os.environ | {
        "ANSIBLE_CONFIG": str(ROOT / "ansible.cfg"),
        "ANSIBLE_INVENTORY_ENABLED": plugin,
        "AWS_ACCESS_KEY_ID": "key",
        "AWS_SECRET_ACCESS_KEY": "secret",
    }
    environment.pop("PYTHONDONTWRITEBYTECODE", None)  # without bytecode only parsing is measured
    command = [str(BIN / "ansible"), "all", "--list-hosts", "-i", str(source)]
    before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.monotonic()
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    wall, after = time.monotonic() - start, resource.getrusage(resource.RUSAGE_CHILDREN)
    expected = f"  hosts ({len(machines)}):"
    if expected not in done.stdout:
        sys.exit(f"{source.name}: not{expected}\n{done.stdout[:500]}{done.stderr}")
    return wall, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def measure(repetitions: int, directory: Path) -> dict[str, tuple[float, float]]:
    """Return the best wall and processor time of every inventory."""
    cache = directory / "cache"
    subjects = {
        "static JSON": (directory / "static.json", "yaml"),
        "asg, warm": (directory / "fleet.asg.yml", "asg"),
        "asg, cold": (directory / "fleet.asg.yml", "asg"),
        "aws_ec2": (directory / "fleet.aws_ec2.yml", "amazon.aws.aws_ec2"),
    }
    runs: dict[str, list[tuple[float, float]]] = {name: [] for name in subjects}
    for repetition in range(repetitions + 1):
        for name, (source, plugin) in subjects.items():
            if name == "asg, cold":
                shutil.rmtree(cache)
            run = list_hosts(source, plugin)
            if repetition:  # the first one compiles bytecode and fills the cache
                runs[name].append(run)
    return {
        name: (min(wall for wall, _ in times), min(cpu for _, cpu in times))
        for name, times in runs.items()
    }


def report(best: dict[str, tuple[float, float]], title: str) -> None:
    """Print the table."""
    print(f"\n{title}\n")
    print("| inventory | wall s | of static | aws_ec2's | cpu s | of static | aws_ec2's |")
    print("|---|---|---|---|---|---|---|")
    floor, peer = best["static JSON"], best["aws_ec2"]
    for name, times in best.items():
        cells = [
            f"{mine:.2f} | {mine / least:.2f} | 1/{most / mine:.1f}"
            for mine, least, most in zip(times, floor, peer, strict=True)
        ]
        print(f"| {name} | {' | '.join(cells)} |")


if __name__ == "__main__":
    repetitions, thousands = (int(value) for value in (*sys.argv[1:], *"51"[len(sys.argv) - 1 :]))
    machines = fleet(thousands)
    server = subprocess.Popen(
        [sys.executable, Path(__file__).with_name("replay.py"), str(thousands)],
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert server.stdout
        endpoint = f"http://127.0.0.1:{server.stdout.readline().strip()}"
        with tempfile.TemporaryDirectory() as name:
            directory = Path(name)
            (directory / "static.json").write_text(static(machines))
            (directory / "fleet.asg.yml").write_text(ASG.format(endpoint=endpoint))
            (directory / "fleet.aws_ec2.yml").write_text(AWS_EC2.format(endpoint=endpoint))
            best = measure(repetitions, directory)
        report(best, f"{len(machines)} instances, minimum of {repetitions}")
    finally:
        server.terminate()
        server.wait()
