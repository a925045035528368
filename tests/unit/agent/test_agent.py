"""fleet-agent: a machine leaves its group; its metadata are the local cloud's."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from superset_fleet.agent import daemon as fleet_agent
from superset_fleet.agent.daemon import Agent
from superset_fleet.cloud.metadata import Metadata
from tests.support import aws_server, metadata_server
from tests.support.aws_server import Aws, Reply, autoscaling_error
from tests.support.metadata_server import Imds
from tests.support.waiting import until

COMPLETE, BEAT = "CompleteLifecycleAction", "RecordLifecycleActionHeartbeat"
UNITS = {
    "superset_web": ["superset-web", "fleet-agent"],
    "celery_worker": ["celery-worker", "fleet-agent"],
}
Answer = Callable[[], Reply]


class Machine:
    """A machine that may leave. Its systemctl stops the unit when `may_stop` is called."""

    def __init__(self, directory: Path, imds: Imds, aws: Aws) -> None:
        self.directory, self.imds, self.aws = directory, imds, aws
        self.config = aws.write_config(directory / "aws.ini")
        self.units = directory / "units.json"
        self.units.write_text(json.dumps(UNITS))
        self.bin = directory / "bin"
        self.bin.mkdir()
        self.calls: list[tuple[str, dict[str, str]]] = []
        aws.reply = self.accept
        self.systemctl("while [ ! -e stopped ]; do sleep 0.05; done")

    def systemctl(self, script: str) -> None:
        """Let systemctl do something besides writing down what it is told."""
        path = self.bin / "systemctl"
        path.write_text(f'#!/bin/sh\ncd {self.directory}\necho "$@" >>orders\n{script}\n')
        path.chmod(0o755)

    def accept(self, operation: str, parameters: dict[str, str], _: Answer) -> Reply:
        """Answer as a group that waits for the machine."""
        self.calls.append((operation, parameters))
        return 200, f"<{operation}Response/>"

    def refuse(self, operation: str, parameters: dict[str, str], _: Answer) -> Reply:
        """Answer as a group that does not wait, or no more."""
        self.calls.append((operation, parameters))
        message = "No active Lifecycle Action found with instance ID i-1"
        return autoscaling_error("ValidationError", message)

    def fail(self, operation: str, parameters: dict[str, str], _: Answer) -> Reply:
        """Answer as an API that is in trouble."""
        self.calls.append((operation, parameters))
        return autoscaling_error("InternalFailure", "not now", 500)

    def may_stop(self) -> None:
        (self.directory / "stopped").touch()

    @property
    def orders(self) -> list[str]:
        """What systemctl was told to do, without what it was asked."""
        path = self.directory / "orders"
        orders = path.read_text().splitlines() if path.exists() else []
        return [order for order in orders if not order.startswith("is-active")]

    @property
    def called(self) -> list[str]:
        return [operation for operation, _ in self.calls]


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Machine]:
    with aws_server.serve() as aws, metadata_server.serve() as imds:
        made = Machine(tmp_path, imds, aws)
        monkeypatch.setenv("PATH", f"{made.bin}:{os.environ['PATH']}")
        monkeypatch.setenv("AWS_EC2_METADATA_SERVICE_ENDPOINT", imds.url)
        yield made
        made.may_stop()


@pytest.fixture
def agent(machine: Machine) -> Agent:
    return Agent(Metadata(), machine.units, machine.config)


def work_until(agent: Agent, condition: Callable[[], object], what: str) -> None:
    def holds() -> object:
        agent.step()
        return condition()

    until(holds, what)


def leave(agent: Agent, machine: Machine) -> None:
    """Be told to leave, and begin with it."""
    machine.imds.say(lifecycle_state="Terminated")
    work_until(agent, lambda: machine.orders, "the unit is stopped")
    assert machine.orders == ["stop superset-web"]


@pytest.mark.parametrize("state", ["InService", "Standby", ""])
def test_a_machine_that_is_not_told_to_leave_stays(
    agent: Agent, machine: Machine, state: str
) -> None:
    machine.imds.say(lifecycle_state=state)
    for _ in range(3):
        agent.step()
    assert (machine.orders, machine.called, agent.doing) == ([], [], "stays")


def test_a_machine_leaves_when_its_unit_has_stopped_and_not_before(
    agent: Agent, machine: Machine
) -> None:
    leave(agent, machine)
    for _ in range(3):
        agent.step()
    assert (machine.called, agent.doing) == ([], "leaves")
    machine.may_stop()
    work_until(agent, lambda: agent.left, "it has left")
    ((operation, given),) = machine.calls
    assert operation == COMPLETE
    assert given["AutoScalingGroupName"] == "superset-superset_web"
    assert given["LifecycleHookName"] == "leave"
    assert given["InstanceId"] == "i-1"
    assert given["LifecycleActionResult"] == "CONTINUE"
    assert machine.orders == ["stop superset-web"]


def test_a_worker_leaves_its_own_group_when_its_own_unit_has_stopped(
    agent: Agent, machine: Machine
) -> None:
    group = "superset-celery_worker_reports"
    machine.imds.say(
        lifecycle_state="Terminated",
        tags={"fleet": "superset", "role": "celery_worker", "aws:autoscaling:groupName": group},
    )
    machine.may_stop()
    work_until(agent, lambda: agent.left, "it has left")
    assert machine.orders == ["stop celery-worker"]
    ((_, given),) = machine.calls
    assert given["AutoScalingGroupName"] == group


def test_a_stop_that_takes_long_is_told_by_heartbeats(
    agent: Agent, machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fleet_agent, "BEAT_SECONDS", 0.1)
    leave(agent, machine)
    work_until(agent, lambda: machine.called == [BEAT] * 3, "heartbeats")
    machine.may_stop()
    work_until(agent, lambda: agent.left, "it has left")
    assert machine.called[-1] == COMPLETE


def test_a_machine_that_nobody_waits_for_has_left(
    agent: Agent, machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As after the end of the hook's time, or in a group that has no hook."""
    monkeypatch.setattr(fleet_agent, "BEAT_SECONDS", 0.1)
    machine.aws.reply = machine.refuse
    leave(agent, machine)
    work_until(agent, lambda: BEAT in machine.called, "a heartbeat that comes too late")
    machine.may_stop()
    work_until(agent, lambda: agent.left, "it has left")
    assert machine.called.count(COMPLETE) == 1


def test_an_api_that_fails_is_asked_until_it_answers(
    agent: Agent, machine: Machine, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    machine.aws.reply = machine.fail
    machine.may_stop()
    leave(agent, machine)
    work_until(agent, lambda: len(machine.called) > 2, "more than one try")
    assert not agent.left
    machine.aws.reply = machine.accept
    work_until(agent, lambda: agent.left, "it has left")
    assert caplog.text.count("event=trouble") == 1
    assert machine.orders == ["stop superset-web"]


def test_a_metadata_service_that_is_lost_changes_nothing(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    with metadata_server.serve() as lost:
        monkeypatch.setenv("AWS_EC2_METADATA_SERVICE_ENDPOINT", lost.url)
        agent = Agent(Metadata(), machine.units, machine.config)
        agent.step()
    agent.step()
    assert (machine.orders, agent.doing) == ([], "stays")


def test_a_machine_goes_all_the_same_when_systemd_does_not_know_its_unit(
    agent: Agent, machine: Machine, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    machine.systemctl('echo "Unit superset-web.service not loaded." >&2; exit 5')
    leave(agent, machine)
    work_until(agent, lambda: agent.left, "it has left")
    assert 'event=not_stopped reason="Unit superset' in caplog.text


def test_a_stop_that_somebody_cancels_is_done_again(agent: Agent, machine: Machine) -> None:
    machine.systemctl(
        """case $1 in
        is-active) echo deactivating ;;
        stop)
            while [ ! -e stopped ] && [ ! -e canceled ]; do sleep 0.05; done
            if [ -e canceled ]; then rm canceled; echo "Job canceled." >&2; exit 1; fi ;;
        esac"""
    )
    leave(agent, machine)
    (machine.directory / "canceled").touch()
    work_until(agent, lambda: machine.orders.count("stop superset-web") == 2, "it is stopped again")
    assert COMPLETE not in machine.called
    machine.may_stop()
    work_until(agent, lambda: agent.left, "it has left")
    assert machine.called[-1] == COMPLETE


def test_an_agent_that_is_stopped_halfway_is_followed_by_one_that_goes_on(
    agent: Agent, machine: Machine
) -> None:
    leave(agent, machine)
    another = Agent(Metadata(), machine.units, machine.config)
    work_until(another, lambda: len(machine.orders) == 2, "the unit is stopped, once more")
    machine.may_stop()
    work_until(another, lambda: another.left, "it has left")
    assert machine.called == [COMPLETE]


def test_the_service_says_how_it_is_and_stops_when_told(machine: Machine, tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as systemd:
        systemd.bind(str(tmp_path / "notify"))
        systemd.settimeout(30)
        command = [sys.executable, "-m", "superset_fleet.agent"]
        service = subprocess.Popen(
            [*command, "--units", str(machine.units), "--config", str(machine.config)],
            env=os.environ | {"NOTIFY_SOCKET": str(tmp_path / "notify")},
            stderr=subprocess.PIPE,
            text=True,
        )
        assert systemd.recv(1000) == b"READY=1\nWATCHDOG=1\nSTATUS=stays"
        machine.imds.say(lifecycle_state="Terminated")
        until(lambda: b"STATUS=leaves" in systemd.recv(1000), "it leaves")
        machine.may_stop()
        until(lambda: b"STATUS=has left" in systemd.recv(1000), "it has left")
        service.send_signal(signal.SIGTERM)
        until(lambda: systemd.recv(1000) == b"STOPPING=1", "systemd is told so")
        _, told = service.communicate(timeout=30)
    assert service.returncode == 0
    assert told.splitlines() == [
        "event=leaves units=superset-web",
        "event=stopped",
        "event=left",
    ]
