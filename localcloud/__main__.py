"""The command: python -m localcloud up | down | status, and faults (see --help)."""

import argparse
import configparser
import contextlib
import json
import shutil
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from ipaddress import IPv4Network
from pathlib import Path
from typing import Any

from localcloud.cloud import API_PORT, REGION, Cloud, CloudError
from localcloud.host import cgroups, network, preflight, processes
from localcloud.host.images import Images
from localcloud.host.system import lock, remove_tree, tail, unmount_below, write

CHECKOUT = Path(__file__).resolve().parent.parent
START_SECONDS = 60  # for the daemon to answer, on a busy machine
AWS_CONFIG = """\
[default]
endpoint_url = {endpoint}
region = {region}
aws_access_key_id = localcloud
aws_secret_access_key = localcloud
"""
FAULTS = {
    "kill": "cut the power of a machine",
    "pause": "freeze a machine",
    "resume": "let a frozen machine go on",
    "cut": "take a machine off the network",
    "join": "put it back on the network",
}


def say(text: str) -> None:
    print(text, flush=True)


def request(cloud: Cloud, method: str, path: str, timeout_seconds: float) -> bytes | None:
    """Send a request to the cloud's daemon and return the answer; None = it does not answer.

    Raises CloudError with the answer when that is a refusal.
    """
    config = configparser.ConfigParser()
    if not config.read(cloud.aws_config):
        return None
    url = f"{config['default']['endpoint_url']}/localcloud/{path}"
    direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        asked = urllib.request.Request(url, method=method)
        with direct.open(asked, timeout=timeout_seconds) as answer:
            return bytes(answer.read())
    except urllib.error.HTTPError as error:
        raise CloudError(error.read().decode().strip() or str(error)) from error
    except OSError:
        return None


def ask(cloud: Cloud) -> dict[str, Any] | None:
    """Return the report of the cloud's daemon; None = it does not answer."""
    with contextlib.suppress(ValueError, CloudError):
        report: dict[str, Any] = json.loads(request(cloud, "GET", "status", 5) or "null")
        return report
    return None


def tell(cloud: Cloud, path: str) -> None:
    """Have the daemon do something, and print what it answers. Raises CloudError."""
    said = request(cloud, "POST", path, 30)
    if said is None:
        raise CloudError("the local cloud is down; bring it up with `up`")
    say(said.decode().strip())


@contextlib.contextmanager
def alone(cloud: Cloud) -> Iterator[None]:
    """Let one `up` or `down` of this cloud run at a time."""
    cloud.state.mkdir(parents=True, exist_ok=True, mode=0o755)
    with lock(cloud.state / "lock", f"another command works on {cloud.state}, waiting for it"):
        yield


def up(cloud: Cloud) -> None:
    """Bring the cloud up; nothing to do when it is."""
    began = time.monotonic()
    if not ask(cloud) and (problems := preflight.check(cloud)):
        raise CloudError(preflight.message(problems))
    with alone(cloud):
        if report := ask(cloud):
            say(f"already up: {report['endpoint_url']}")
            return
        clean(cloud)
        try:
            make_image(cloud)
            block = network.up(cloud)
            say(f"network {block}: up, host side {cloud.link}")
            start_daemon(cloud, block)
        except BaseException:
            clean(cloud)
            raise
        say(f"up after {time.monotonic() - began:.0f} s; AWS_CONFIG_FILE={cloud.aws_config}")


def image(cloud: Cloud) -> None:
    """Make the base image of a cloud that is down; nothing to do when it is there or up."""
    with alone(cloud):
        if not ask(cloud):
            if problems := preflight.check(cloud):
                raise CloudError(preflight.message(problems))
            make_image(cloud)


def make_image(cloud: Cloud) -> None:
    images = Images(cloud)
    images.sweep(unfinished=True)
    base = images.ensure_base(cloud, say)
    say(f"base image {base.id}: there")


def start_daemon(cloud: Cloud, block: IPv4Network) -> None:
    """Start the daemon in the cloud's network and wait until it answers.

    It has a mount namespace too, so that the machines' mounts go with its last process.
    """
    namespaces = ["nsenter", f"--net={network.namespace(cloud)}"]
    namespaces += ["unshare", "--mount", "--propagation", "slave"]
    daemon = [sys.executable, "-m", "localcloud.server", str(cloud.state), str(block)]
    with cloud.log.open("ab") as log:
        process = subprocess.Popen(
            [*namespaces, *daemon],
            cwd=CHECKOUT,
            env=cloud.environment(),
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    endpoint = f"http://{network.bridge_address(block)}:{API_PORT}"
    write(cloud.aws_config, AWS_CONFIG.format(endpoint=endpoint, region=REGION))
    deadline = time.monotonic() + START_SECONDS
    while not (report := ask(cloud)):
        if process.poll() is not None or time.monotonic() > deadline:
            raise CloudError(
                f"the API does not answer; the last lines of {cloud.log}:\n{tail(cloud.log)}"
            )
        time.sleep(0.1)
    say(f"API {report['endpoint_url']}: answers, process {report['pid']}, log {cloud.log}")


def clean(cloud: Cloud) -> None:
    """Remove everything of the cloud but images and parameters; it may be half up, or broken."""
    processes.kill(cloud)
    network.down(cloud)
    for group in cgroups.of(cloud):
        cgroups.remove(group)
    unmount_below(cloud.state)
    remove_tree(cloud.machines)
    cloud.aws_config.unlink(missing_ok=True)


def down(cloud: Cloud, purge: bool) -> None:
    """Take the cloud down; with `purge` forget its images and parameters as well."""
    began = time.monotonic()
    if not cloud.state.exists():
        say(f"nothing to take down: {cloud.state} is not there")
        return
    if problems := preflight.root():
        raise CloudError(preflight.message(problems))
    with alone(cloud):
        clean(cloud)
        if purge:
            shutil.rmtree(cloud.state)
    say(f"down after {time.monotonic() - began:.1f} s{', nothing kept' if purge else ''}")


def status(cloud: Cloud, as_json: bool) -> int:
    """Print the state; return the exit status: 0 when up, 3 when down."""
    report = ask(cloud) or {"state": "down"}
    if as_json:
        say(json.dumps(report, indent=2))
    elif report["state"] == "down":
        say("down")
    else:
        say(f"up: {report['endpoint_url']}, VPC block {report['vpc_cidr']}")
        for image in report["images"]:
            say(f"  image {image['id']} {image['name']}: {image['state']}")
        for machine in report["machines"]:
            reason = f" ({machine['reason']})" if machine["reason"] else ""
            say(f"  machine {machine['instance']} {machine['address']}: {machine['state']}{reason}")
        for wait in report["waiting"]:
            say(
                f"  {wait['instance']} of {wait['group']} is {wait['state']} for hook"
                f" {wait['hook']}, {wait['seconds']} s more; token {wait['token']}"
            )
    return 0 if report["state"] == "up" else 3


def main() -> int:
    parser = argparse.ArgumentParser(prog="localcloud", description="A small AWS on this machine.")
    parser.add_argument(
        "--state",
        type=Path,
        default=CHECKOUT / ".localcloud",
        help="directory of all its state; its path gives the cloud its name (%(default)s)",
    )
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("up", help="bring it up; returns when the API answers")
    commands.add_parser("image", help="make the base image, which `up` does as well")
    down_parser = commands.add_parser("down", help="take it down; images and parameters are kept")
    down_parser.add_argument("--purge", action="store_true", help="keep nothing")
    status_parser = commands.add_parser("status", help="show images and machines; 3 = it is down")
    status_parser.add_argument("--json", action="store_true", help="for programs")
    for verb, what in FAULTS.items():
        fault = commands.add_parser(verb, help=what)
        fault.add_argument("instance", metavar="INSTANCE")
    forward = commands.add_parser(
        "forward", help="let time pass for heartbeats, warm-ups and grace periods of groups"
    )
    forward.add_argument("seconds", type=int, metavar="SECONDS")
    arguments = parser.parse_args()
    cloud = Cloud(arguments.state.resolve())
    try:
        match arguments.command:
            case "up":
                up(cloud)
            case "image":
                image(cloud)
            case "down":
                down(cloud, arguments.purge)
            case "status":
                return status(cloud, arguments.json)
            case "forward":
                tell(cloud, f"forward/{arguments.seconds}")
            case fault:
                tell(cloud, f"{fault}/{arguments.instance}")
    except CloudError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
