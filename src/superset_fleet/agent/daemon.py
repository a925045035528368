"""fleet-agent: lets a machine leave its auto-scaling group without losing what it works on.

The machine's own metadata say when its group wants it to go. The agent then stops the units of its
role, as by hand, so that they finish what runs; meanwhile it tells the group by heartbeats to wait,
and at last that it need not. It asks for everything again until it is done: an agent that restarts
begins anew, and where the cloud does not answer, the group terminates the machine when the hook's
time-out is over.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ..cloud import client as aws
from ..cloud.metadata import LIFECYCLE, Identity, Metadata, MetadataError
from ..daemon.credentials import aws_config
from ..daemon.journal import begin_journal, tell
from ..daemon.loop import run, until_terminated

UNIT = "fleet-agent"  # its own
HOOK = "leave"  # the lifecycle hook, as playbooks/provision.yml names it
POLL_SECONDS = 2.0
BEAT_SECONDS = 20.0  # a hook waits for 30 at least
STOPPING_POLL_SECONDS = 0.5


class Agent:
    """The loop.

    `units_file` has the units of each role, as JSON: {role: [unit, …]}; `config_file` is the AWS
    config file where the cloud has one of its own.
    """

    def __init__(self, metadata: Metadata, units_file: Path, config_file: Path) -> None:
        self._metadata, self._units_file, self._config_file = metadata, units_file, config_file
        self._me: Identity | None = None
        self._api: Any = None
        self._stopping: subprocess.Popen[str] | None = None
        self._due = 0.0  # when to call the API again, by the monotonic clock
        self._failures = 0  # in a row
        self._told: set[str] = set()
        self.left = False

    def run(self, terminated: Callable[[float], bool]) -> None:
        """Work until terminated tells so."""
        run(self.step, terminated, lambda: self.doing)

    @property
    def doing(self) -> str:
        """What the machine does, in a few words."""
        if not self._stopping:
            return "stays"
        return "has left" if self.left else "leaves"

    def step(self) -> float:
        """Do what there is to do; return for how many seconds then to wait."""
        try:
            if self._step():
                self._failures = 0
                self._told.clear()
        except (MetadataError, aws.AwsError, OSError) as error:
            self._failures += 1
            self._due = time.monotonic() + aws.backoff(self._failures)
            if str(error) not in self._told:  # once for each outage
                tell("trouble", reason=error)
                self._told.add(str(error))
        return STOPPING_POLL_SECONDS if self._stopping and not self.left else POLL_SECONDS

    def _step(self) -> bool:
        """Return whether the cloud was asked and has answered."""
        if not self._stopping:
            if self._metadata.get(LIFECYCLE) != "Terminated":
                return True
            units = self._units()
            tell("leaves", units=",".join(units))
            command = ["systemctl", "stop", *units]
            self._stopping = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
            self._due = time.monotonic() + BEAT_SECONDS
        stopped = self._stopping.poll() is not None
        if stopped and self._stopping.stderr:
            self._stopped(self._stopping)
            if self._stopping.returncode and self._runs():
                self._stopping = None  # who started it anew meanwhile has cancelled the stop
                return False
        if self.left or time.monotonic() < self._due:
            return False
        if stopped:
            self._call("complete_lifecycle_action", LifecycleActionResult="CONTINUE")
            self.left = True
            tell("left")
        else:
            self._call("record_lifecycle_action_heartbeat")
            self._due = time.monotonic() + BEAT_SECONDS
        return True

    def _units(self) -> list[str]:
        """Return what is to be stopped. Raises MetadataError and OSError."""
        units: list[str] = json.loads(self._units_file.read_text()).get(self._identity().role, [])
        return [unit for unit in units if unit != UNIT]

    def _identity(self) -> Identity:
        """Return which machine this is. Raises MetadataError."""
        self._me = self._me or self._metadata.identity()
        return self._me

    def _runs(self) -> bool:
        """Return whether a unit runs still, or again. Raises MetadataError and OSError."""
        command = ["systemctl", "is-active", *self._units()]
        states = subprocess.run(command, capture_output=True, text=True).stdout.split()
        return bool({"active", "activating", "deactivating", "reloading"} & {*states})

    def _stopped(self, stopping: subprocess.Popen[str]) -> None:
        """Say how the stop went. Where systemd refused it, the machine goes anyway."""
        assert stopping.stderr
        with stopping.stderr as said:
            reason = " ".join(said.read().split())
        stopping.stderr = None
        if stopping.returncode:
            tell("not_stopped", reason=reason)
        else:
            tell("stopped")
        self._due = 0.0

    def _call(self, operation: str, **wanted: str) -> None:
        """Tell the group something about the machine's leave. Raises MetadataError, AwsError.

        That the group does not wait, or no more, is no error: then nothing is left to tell it.
        """
        me = self._identity()
        try:
            with aws.explained(me.region):
                if not self._api:
                    session = aws.patient(aws_config(self._config_file))
                    self._api = aws.client(session, "autoscaling", me.region)
                getattr(self._api, operation)(
                    AutoScalingGroupName=me.group,
                    LifecycleHookName=HOOK,
                    InstanceId=me.instance_id,
                    **wanted,
                )
        except aws.AwsError as error:
            if "No active Lifecycle Action" not in str(error):
                raise
            tell("not_awaited", reason=error)


def main() -> None:
    """Run until SIGTERM."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--units", type=Path, default="/etc/fleet/units.json", metavar="FILE")
    parser.add_argument("--config", type=Path, default="/etc/fleet/aws.ini", metavar="FILE")
    options = parser.parse_args()
    begin_journal()
    Agent(Metadata(), options.units, options.config).run(until_terminated())
