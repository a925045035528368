"""fleet-boot: a machine becomes part of the fleet; metadata are the local cloud's, AWS is moto."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from base64 import b64encode
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from superset_fleet.agent.boot import NotYet, read_facts
from superset_fleet.cloud import client as fleet_aws
from superset_fleet.cloud.metadata import Identity
from tests.support import aws_server, metadata_server
from tests.support.aws_server import REGION, Aws, Reply, ssm_error
from tests.support.metadata_server import Imds
from tests.support.waiting import until

FACTS = '{\n    "secret_key": "hidden"\n}\n'
PARAMETER = "/superset-fleet/superset/facts/superset_web"
UNITS = {"superset_web": ["superset-web", "fleet-agent"], "celery_worker": ["celery-worker"]}


class Machine:
    """A machine that boots. Its systemctl writes down what it is told, and fails when told to."""

    def __init__(self, directory: Path, imds: Imds, aws: Aws) -> None:
        self.directory, self.imds, self.aws = directory, imds, aws
        self.facts, self.config = directory / "facts.json", directory / "aws.ini"
        self.env = directory / "machine.env"
        self.broken = directory / "broken"
        (directory / "units.json").write_text(json.dumps(UNITS))
        systemctl = directory / "bin" / "systemctl"
        systemctl.parent.mkdir()
        systemctl.write_text(
            f'#!/bin/sh\necho "$@" >>{directory}/orders\n'
            f'if [ -e {self.broken} ]; then echo "Job failed." >&2; exit 1; fi\n'
        )
        systemctl.chmod(0o755)
        # As the local cloud gives it: an endpoint, and no keys.
        text = f"[default]\nregion = {REGION}\nendpoint_url = {aws.endpoint_url}\n"
        imds.say(user_data=b64encode(text.encode()).decode())

    def store(self, value: str = FACTS, name: str = PARAMETER) -> None:
        self.aws.client("ssm").put_parameter(
            Name=name, Value=value, Type="SecureString", Overwrite=True
        )

    @property
    def orders(self) -> list[str]:
        """What systemctl was told."""
        path = self.directory / "orders"
        return path.read_text().splitlines() if path.exists() else []

    def start(self) -> subprocess.Popen[str]:
        options = ["--units", "units.json", "--config", "aws.ini", "--facts", "facts.json"]
        options += ["--machine", "machine.env"]
        keep = {name: value for name, value in os.environ.items() if not name.startswith("AWS_")}
        return subprocess.Popen(
            [sys.executable, "-m", "superset_fleet.agent.boot", *options],
            cwd=self.directory,
            env=keep
            | {
                "PATH": f"{self.directory}/bin:{os.environ['PATH']}",
                "AWS_EC2_METADATA_SERVICE_ENDPOINT": self.imds.url,
            },
            stderr=(self.directory / "journal").open("w"),
            text=True,
        )

    @property
    def journal(self) -> str:
        return (self.directory / "journal").read_text()

    def boot(self) -> str:
        """Boot, and return what is in the journal then."""
        assert self.start().wait(60) == 0, self.journal
        return self.journal


@pytest.fixture
def aws() -> Iterator[Aws]:
    with aws_server.serve() as server:
        yield server


@pytest.fixture
def machine(tmp_path: Path, aws: Aws) -> Iterator[Machine]:
    with metadata_server.serve() as imds:
        yield Machine(tmp_path, imds, aws)


def test_a_machine_gets_its_facts_and_starts_its_units(machine: Machine) -> None:
    machine.store()
    assert machine.boot() == "event=booted units=superset-web,fleet-agent\n"
    assert machine.facts.read_text() == FACTS
    assert machine.facts.stat().st_mode & 0o777 == 0o600
    assert machine.config.stat().st_mode & 0o777 == 0o600
    assert machine.orders == [
        "enable superset-web fleet-agent",
        "restart superset-web fleet-agent",
    ]
    assert machine.aws.calls == ["PutParameter", "GetParameter"]


def test_a_machine_that_boots_again_changes_nothing(machine: Machine) -> None:
    machine.store()
    machine.boot()
    before = machine.facts.stat().st_mtime_ns
    machine.boot()
    assert machine.facts.stat().st_mtime_ns == before
    assert machine.orders[-1] == "start superset-web fleet-agent"


def test_secrets_that_a_killed_boot_left_behind_are_removed(machine: Machine) -> None:
    machine.store()
    left = machine.facts.with_name(f".{machine.facts.name}-x7f3")
    left.write_text(FACTS)
    machine.boot()
    assert not left.exists()


def test_services_that_run_with_facts_of_before_are_restarted(machine: Machine) -> None:
    machine.store()
    machine.boot()
    machine.store(FACTS.replace("hidden", "new"))
    machine.boot()
    assert "new" in machine.facts.read_text()
    assert machine.orders[-1] == "restart superset-web fleet-agent"


def test_a_machine_of_another_role_gets_that_role_s(machine: Machine) -> None:
    machine.imds.say(tags={"fleet": "superset", "role": "celery_worker"})
    machine.store(name="/superset-fleet/superset/facts/celery_worker")
    machine.boot()
    assert machine.orders[-1] == "restart celery-worker"


def test_a_machine_writes_down_for_its_units_which_one_it_is(machine: Machine) -> None:
    machine.store()
    machine.boot()
    group = "superset-superset_web"
    assert machine.env.read_text() == f"FLEET_INSTANCE=i-1\nFLEET_GROUP={group}\n"


def test_workers_of_a_group_with_queues_of_its_own_are_restarted_with_these(
    machine: Machine,
) -> None:
    machine.imds.say(tags={"fleet": "superset", "role": "celery_worker"})
    machine.store(name="/superset-fleet/superset/facts/celery_worker")
    machine.boot()
    machine.imds.say(tags={**machine.imds.identity.tags, "queues": "sql_lab charts"})
    machine.boot()
    assert "\nCELERY_WORKER_QUEUES=sql_lab,charts\n" in machine.env.read_text()
    assert machine.orders[-1] == "restart celery-worker"


def test_a_machine_of_a_role_without_units_is_left_alone(machine: Machine) -> None:
    machine.imds.say(tags={"fleet": "superset", "role": "builder"})
    assert machine.boot() == 'event=booted units=""\n'
    assert not machine.facts.exists()
    assert machine.orders == []


def test_user_data_that_are_no_aws_config_are_not_kept(machine: Machine) -> None:
    machine.config.write_text("[default]\n")
    machine.imds.say(user_data=b64encode(b"#cloud-config\n").decode())
    booting = machine.start()
    until(lambda: "waits" in machine.journal or not machine.config.exists(), "it looked")
    assert not machine.config.exists()
    booting.kill()
    booting.wait()


# -- What is missing ------------------------------------------------------------------------------
Change = Callable[[Machine], None]


def without_tags(machine: Machine) -> None:
    machine.imds.say(tags={})


def with_tags(machine: Machine) -> None:
    machine.imds.say(tags={"fleet": "superset", "role": "superset_web"})


def without_profile(machine: Machine) -> None:
    machine.imds.say(role="")


def with_profile(machine: Machine) -> None:
    machine.imds.say(role="web")


def without_parameter(machine: Machine) -> None:
    machine.aws.client("ssm").delete_parameter(Name=PARAMETER)


def with_nonsense(machine: Machine) -> None:
    machine.store("hidden")


def denied(machine: Machine) -> None:
    machine.aws.reply = lambda *_: ssm_error("AccessDeniedException", "not authorized")


def allowed(machine: Machine) -> None:
    machine.aws.reply = aws_server.ordinary


def with_broken_unit(machine: Machine) -> None:
    machine.broken.touch()


def with_whole_unit(machine: Machine) -> None:
    machine.broken.unlink()


@pytest.mark.parametrize(
    ("fault", "mend", "said"),
    [
        (without_tags, with_tags, "tags/instance/fleet is missing: the instance needs this tag"),
        (without_profile, with_profile, "i-1 has no credentials: it needs the instance profile"),
        (without_parameter, Machine.store, f"no parameter {PARAMETER}: run playbooks/site.yml"),
        (with_nonsense, Machine.store, f"parameter {PARAMETER} holds no JSON: run playbooks"),
        (denied, allowed, "(AccessDeniedException): allow the call in the policy"),
        (
            with_broken_unit,
            with_whole_unit,
            "look at journalctl --unit superset-web; systemctl said: Job failed.",
        ),
    ],
)
def test_what_is_missing_is_said_once_and_waited_for(
    machine: Machine, fault: Change, mend: Change, said: str
) -> None:
    machine.store()
    fault(machine)
    booting = machine.start()
    until(lambda: said in machine.journal, said)
    tries = len(machine.aws.calls) + len(machine.orders)
    if fault not in (without_tags, without_profile):
        # Until it has tried again, and had reason to say it again.
        until(lambda: len(machine.aws.calls) + len(machine.orders) > tries, "another try")
    mend(machine)
    assert booting.wait(60) == 0
    assert machine.journal.count(said) == 1
    assert machine.journal.endswith("event=booted units=superset-web,fleet-agent\n")
    assert "hidden" not in machine.journal
    assert machine.facts.read_text() == FACTS


def test_a_machine_that_waits_stops_when_told(machine: Machine) -> None:
    booting = machine.start()
    until(lambda: "waits" in machine.journal, "it waits")
    booting.send_signal(signal.SIGTERM)
    assert booting.wait(30) == 1


# -- Many machines --------------------------------------------------------------------------------
class Throttle:
    """An API that takes so many calls a second, and as many at once: a token bucket, as AWS has."""

    def __init__(self, limit: int) -> None:
        self.limit, self._tokens, self._last = limit, float(limit), time.monotonic()
        self._began, self._lock = self._last, threading.Lock()
        self.calls: Counter[int] = Counter()  # in each second

    def __call__(self, *_: Any) -> Reply:
        with self._lock:
            now = time.monotonic()
            self._tokens = min(self.limit, self._tokens + (now - self._last) * self.limit)
            self._last = now
            self.calls[int(now - self._began)] += 1
            if self._tokens < 1:
                return ssm_error("ThrottlingException", "Rate exceeded")
            self._tokens -= 1
        return 200, json.dumps({"Parameter": {"Name": PARAMETER, "Value": FACTS}})


def test_a_hundred_machines_that_boot_together_share_the_api(aws: Aws, tmp_path: Path) -> None:
    """At 40 calls a second, which AWS's parameter store takes by default."""
    session = fleet_aws.patient(aws.write_config(tmp_path / "aws.ini"))
    stores = [fleet_aws.client(session, "ssm", REGION) for _ in range(100)]
    throttle = aws.reply = Throttle(40)
    me = Identity("i-1", REGION, "superset", "superset_web", "superset-superset_web", [])
    ready = threading.Barrier(len(stores))

    def boot(store: Any) -> str:
        ready.wait()
        failures = 0
        while True:
            try:
                return read_facts(store, me)
            except (fleet_aws.AwsError, NotYet) as error:
                assert "ThrottlingException" in str(error)
                failures += 1
                time.sleep(fleet_aws.backoff(failures))

    with ThreadPoolExecutor(len(stores)) as pool:
        assert list(pool.map(boot, stores)) == [FACTS] * len(stores)
    print(dict(sorted(throttle.calls.items())))
    # All together try once; from then on those that are left are few enough.
    assert throttle.calls.total() < 3 * len(stores)
    assert all(calls <= throttle.limit for second, calls in throttle.calls.items() if second > 1)


@pytest.mark.parametrize(("failures", "most"), [(1, 1), (2, 2), (5, 16), (6, 30), (1000, 30)])
def test_the_more_often_it_failed_the_longer_the_pause_may_be(failures: int, most: float) -> None:
    pauses = [fleet_aws.backoff(failures) for _ in range(2000)]
    assert 0 <= min(pauses) < most / 10
    assert most * 0.9 < max(pauses) <= most
