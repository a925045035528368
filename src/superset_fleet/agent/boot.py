"""fleet-boot: makes a machine that its group has just started a part of the fleet.

The image has all software and no fact. This reads from the instance metadata which part the machine
is and writes that down for its units, takes the facts of that part from the parameter store, and
starts these units. What is missing it says once, in the journal and on the console, and tries
again for ever: it comes right by itself when the cloud does.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import botocore.exceptions

from ..cloud import client as aws
from ..cloud.metadata import Identity, Metadata, MetadataError
from ..cloud.parameters import facts_path
from ..daemon.journal import begin_journal, tell
from ..daemon.loop import run, until_terminated
from ..files import replace, sweep


@dataclass(frozen=True)
class Files:
    """What is read and written."""

    units: Path  # JSON: the units of each role, {role: [unit, …]}
    aws_config: Path  # where the cloud gives one; else not there
    facts: Path
    machine: Path  # for the environment of units: which machine this is


class NotYet(Exception):
    """Something is missing; the message says what, where, and what to do, in one line."""


def boot(metadata: Metadata, files: Files) -> list[str]:
    """Write the facts and start the units; return these. May be done again at any time.

    Raises MetadataError, AwsError, NotYet and OSError, whereupon it is to be tried again.
    """
    me = metadata.identity()
    units: list[str] = json.loads(files.units.read_text()).get(me.role, [])
    if not units:
        return []
    config_file = write_aws_config(metadata, files.aws_config)
    with aws.explained(me.region):
        store = aws.client(aws.patient(config_file), "ssm", me.region)
    texts = {files.facts: read_facts(store, me), files.machine: environment(me)}
    for path in texts:
        sweep(path)
    changed = [path for path, text in texts.items() if replace(path, text)]
    systemctl("enable", units)
    # Services that run already have read what was there before.
    systemctl("restart" if changed else "start", units)
    return units


def environment(me: Identity) -> str:
    """Return what units may know of their machine, as systemd's EnvironmentFile."""
    known = {"FLEET_INSTANCE": me.instance_id, "FLEET_GROUP": me.group}
    if me.queues:
        known["CELERY_WORKER_QUEUES"] = ",".join(me.queues)
    return "".join(f"{name}={value}\n" for name, value in known.items())


def write_aws_config(metadata: Metadata, path: Path) -> Path | None:
    """Keep the user data where it is an AWS config file, as in a cloud with an endpoint of its own.

    Returns the file, None where there is none.
    """
    text = metadata.get("user-data") or ""
    if text.startswith("["):
        replace(path, text)
        return path
    path.unlink(missing_ok=True)
    return None


def read_facts(store: Any, me: Identity) -> str:
    """Return the text of the facts file, in one call. Raises AwsError, NotYet."""
    name = f"{facts_path(me.fleet)}/{me.role}"
    try:
        with aws.explained(me.region):
            text: str = store.get_parameter(Name=name, WithDecryption=True)["Parameter"]["Value"]
    except aws.AwsError as error:
        if error.code == "ParameterNotFound":
            raise NotYet(
                f"region {me.region} has no parameter {name}: run playbooks/site.yml"
            ) from error
        if isinstance(error.__cause__, botocore.exceptions.NoCredentialsError):
            raise NotYet(
                f"{me.instance_id} has no credentials: it needs the instance profile of its "
                "launch template: run playbooks/provision.yml, and replace this machine"
            ) from error
        raise
    try:
        json.loads(text)
    except ValueError:
        # Without what the parser says: it would quote a secret.
        raise NotYet(f"parameter {name} holds no JSON: run playbooks/site.yml") from None
    return text


def systemctl(verb: str, units: list[str]) -> None:
    """Let systemd do something with units, and wait until it is done. Raises NotYet."""
    done = subprocess.run(["systemctl", verb, *units], capture_output=True, text=True)
    if done.returncode:
        said = " ".join(done.stderr.split())
        raise NotYet(
            f"{', '.join(units)} cannot be started: look at journalctl --unit {units[0]}; "
            f"systemctl said: {said}"
        )


class Boot:
    """The attempts to boot."""

    def __init__(self, metadata: Metadata, files: Files) -> None:
        self._metadata, self._files = metadata, files
        self._failures = 0
        self._told: set[str] = set()

    def step(self) -> float | None:
        """Try; return the seconds until the next attempt, None once the machine has booted."""
        try:
            tell("booted", units=",".join(boot(self._metadata, self._files)))
            return None
        except (MetadataError, aws.AwsError, NotYet, OSError) as error:
            if str(error) not in self._told:
                tell("waits", reason=error)
                self._told.add(str(error))
            self._failures += 1
            return aws.backoff(self._failures)


def main() -> None:
    """Try until it is done, or until SIGTERM."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--units", type=Path, default="/etc/fleet/units.json", metavar="FILE")
    parser.add_argument("--config", type=Path, default="/etc/fleet/aws.ini", metavar="FILE")
    parser.add_argument("--facts", type=Path, default="/etc/superset/facts.json", metavar="FILE")
    parser.add_argument("--machine", type=Path, default="/etc/fleet/machine.env", metavar="FILE")
    options = parser.parse_args()
    begin_journal()
    files = Files(options.units, options.config, options.facts, options.machine)
    if not run(Boot(Metadata(), files).step, until_terminated()):
        sys.exit("event=given_up reason=SIGTERM")


if __name__ == "__main__":
    main()
