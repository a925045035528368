"""units: what is to be done to them, who may listen, and what is older than its configuration."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from units import Listener, Unit, full, is_older, parse, plan, state, strangers, unit_of

ROOT = Path(__file__).parents[3]
SS = """\
LISTEN 0 511 127.0.0.1:6379 0.0.0.0:* users:(("redis-server",pid=71,fd=6))
LISTEN 0 128 [::]:22 [::]:* users:(("sshd",pid=55,fd=4),("systemd",pid=1,fd=9))
LISTEN 0 64 *:2049 *:*
"""


def test_every_process_of_a_port_is_seen() -> None:
    assert parse(SS) == [(6379, "redis-server", 71), (22, "sshd", 55), (22, "systemd", 1)]


def test_the_unit_of_a_process_is_read_from_either_kind_of_cgroup() -> None:
    v1 = "9:memory:/\n1:name=systemd:/system.slice/system-redis.slice/redis-server@cache.service\n"
    assert unit_of(v1) == "redis-server@cache.service"
    assert unit_of("0::/user.slice/user-0.slice/session-1.scope\n") == "session-1.scope"
    assert unit_of("0::/\n") == ""


def test_a_unit_may_have_its_own_port() -> None:
    own = Listener(8088, "gunicorn", 5, "superset-web.service")
    assert strangers([own], {"superset-web.service": [8088]}) == []


def test_a_stranger_is_named_with_port_and_remedy() -> None:
    (sentence,) = strangers([Listener(8088, "nc", 7, "")], {"superset-web.service": [8088]})
    assert "port 8088" in sentence
    assert "process nc (pid 7)" in sentence
    assert "stop that process" in sentence


def test_a_unit_takes_over_the_port_of_the_one_that_it_replaces() -> None:
    former = Listener(8405, "python", 7, "fleetd.service")
    wanted = {"fleet-membership.service": [8405]}
    assert strangers([former], wanted)
    assert strangers([former], wanted, ["fleetd.service"]) == []


def test_ports_that_nobody_asked_for_are_nobody_s_business() -> None:
    assert strangers([Listener(22, "sshd", 7, "ssh.service")], {"a.service": [80]}) == []


ON, OFF = Unit(enabled=True, running=True), Unit(enabled=False, running=False)


def test_what_is_as_wanted_is_left_alone() -> None:
    assert plan({"a.service": ON, "b.service": OFF}, {"a.service": ON, "b.service": OFF}) == []


def test_units_are_enabled_and_started_in_the_order_in_which_they_are_given() -> None:
    steps = plan({"b": OFF, "a": OFF}, {"b": ON, "a": ON})
    assert steps == [("enable", "b"), ("start", "b"), ("enable", "a"), ("start", "a")]


def test_what_is_not_wanted_is_disabled_and_stopped() -> None:
    assert plan({"a": ON}, {"a": OFF}) == [("disable", "a"), ("stop", "a")]


def test_whether_a_unit_starts_at_boot_is_nobody_s_matter_unless_said() -> None:
    assert plan({"a": OFF}, {"a": Unit(enabled=None, running=True)}) == [("start", "a")]


@pytest.mark.parametrize(
    ("active", "running"),
    [("active", True), ("activating", True), ("inactive", False), ("failed", False)],
)
def test_a_unit_that_is_being_started_runs_and_one_that_failed_does_not(
    active: str, running: bool
) -> None:
    known = {"ActiveState": active, "UnitFileState": "enabled"}
    assert state(known) == Unit(enabled=True, running=running)


def test_a_name_without_a_suffix_is_a_service() -> None:
    assert full("redis-server@cache") == "redis-server@cache.service"
    assert full("superset-browser.socket") == "superset-browser.socket"


def began(at: float, unit: Path, *drop_ins: Path) -> dict[str, str]:
    """What systemd says of a unit that started at a time, in seconds since 1970."""
    since_boot = time.monotonic() - (time.time() - at)
    return {
        "FragmentPath": str(unit),
        "DropInPaths": " ".join(map(str, drop_ins)),
        "InactiveExitTimestampMonotonic": str(round(since_boot * 1e6)),
    }


def written(path: Path, at: float) -> Path:
    path.write_text("")
    os.utime(path, (at, at))
    return path


NOW = time.time()


@pytest.fixture
def before(tmp_path: Path) -> Path:
    """A file that was there before the unit started."""
    return written(tmp_path / "before", NOW - 1)


def test_a_unit_is_older_than_a_file_that_was_written_since(before: Path, tmp_path: Path) -> None:
    after = written(tmp_path / "after", NOW + 1)
    assert not is_older(began(NOW, before), [str(before)])
    assert is_older(began(NOW, before), [str(before), str(after)])


def test_a_unit_is_older_than_its_file_and_than_a_drop_in(before: Path, tmp_path: Path) -> None:
    after = written(tmp_path / "after", NOW + 1)
    assert is_older(began(NOW, after), [str(before)])
    assert not is_older(began(NOW, before, before), [str(before)])
    assert is_older(began(NOW, before, before, after), [str(before)])


def test_of_a_directory_what_lies_in_it_counts_and_nothing_deeper(
    before: Path, tmp_path: Path
) -> None:
    directory = tmp_path / "etc"
    (directory / "deep").mkdir(parents=True)
    written(directory / "deep" / "file", NOW + 1)
    for path in (directory / "deep", directory):
        os.utime(path, (NOW - 1, NOW - 1))
    assert not is_older(began(NOW, before), [str(directory)])
    written(directory / "file", NOW + 1)
    os.utime(directory, (NOW - 1, NOW - 1))
    assert is_older(began(NOW, before), [str(directory)])


def test_a_missing_configuration_is_an_error(before: Path, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        is_older(began(NOW, before), [str(tmp_path / "none")])


# -- The module, with a systemctl that remembers ---------------------------------------------------
SYSTEMCTL = """\
#!{python}
import json, pathlib, sys
verb, *words = [word for word in sys.argv[1:] if word not in ("--", "--now")]
file = pathlib.Path("{directory}", "units.json")
units = json.loads(file.read_text())
if verb == "show":
    for name in words[1:]:
        unit = units.get(name, {{}})
        there = pathlib.Path("{directory}", name)
        print("ActiveState=" + ("active" if unit.get("active") else "inactive"))
        print("DropInPaths=")
        print("FragmentPath=" + (str(there) if there.exists() else ""))
        print("InactiveExitTimestampMonotonic=" + str(unit.get("began", 0)))
        print("NeedDaemonReload=no")
        print("UnitFileState=" + ("enabled" if unit.get("enabled") else "") + chr(10))
else:
    with open("{directory}/orders", "a") as orders:
        print(verb, *words, file=orders)
    for name in words:
        unit = units.setdefault(name, {{"began": {now}}})
        unit["active"] = {{"start": True, "stop": False, "disable": False}}.get(
            verb, unit.get("active")
        )
        unit["enabled"] = {{"enable": True, "disable": False}}.get(verb, unit.get("enabled"))
file.write_text(json.dumps(units))
"""
Module = Callable[..., dict[str, Any]]


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Module:
    """Run the module; its result has what systemctl was told, too."""
    now = round(time.monotonic() * 1e6)
    systemctl = tmp_path / "bin" / "systemctl"
    systemctl.parent.mkdir()
    systemctl.write_text(SYSTEMCTL.format(python=sys.executable, directory=tmp_path, now=now))
    systemctl.chmod(0o755)
    monkeypatch.setenv("PATH", f"{systemctl.parent}:{os.environ['PATH']}")
    (tmp_path / "units.json").write_text("{}")

    def run(*units: dict[str, Any], check: bool = False) -> dict[str, Any]:
        (tmp_path / "orders").write_text("")
        given = {"units": units, "_ansible_check_mode": check, "_ansible_remote_tmp": str(tmp_path)}
        arguments = tmp_path / "arguments"
        arguments.write_text(json.dumps({"ANSIBLE_MODULE_ARGS": given}))
        done = subprocess.run(
            [sys.executable, str(ROOT / "library/units.py"), str(arguments)],
            capture_output=True,
            text=True,
        )
        result: dict[str, Any] = json.loads(done.stdout)
        return result | {"orders": (tmp_path / "orders").read_text().splitlines()}

    return run


FORMER = {"name": "fleet-membership", "replaces": "fleetd", "enabled": True}


def test_a_unit_of_a_former_name_is_removed_before_its_successor_starts(
    module: Module, tmp_path: Path
) -> None:
    for name in ("fleetd.service", "fleet-membership.service"):
        written(tmp_path / name, NOW - 1)
    running = {"active": True, "enabled": True}
    (tmp_path / "units.json").write_text(json.dumps({"fleetd.service": running}))
    foretold = module(FORMER, check=True)
    assert foretold["changed"] and foretold["orders"] == []
    assert (tmp_path / "fleetd.service").exists()
    done = module(FORMER)
    assert done["diff"] == foretold["diff"]
    assert done["diff"]["before"]["fleetd.service"] == {"enabled": True, "running": True}
    assert "fleetd.service" not in done["diff"]["after"]
    assert done["orders"] == [
        "disable fleetd.service",
        "daemon-reload",
        "enable fleet-membership.service",
        "start fleet-membership.service",
    ]
    assert not (tmp_path / "fleetd.service").exists()
    assert not module(FORMER)["changed"]


def test_where_nothing_has_the_former_name_nothing_is_removed(
    module: Module, tmp_path: Path
) -> None:
    stopped = {"name": "fleet-membership", "replaces": "fleetd", "enabled": False, "running": False}
    said = module(stopped)
    assert not said["changed"] and said["orders"] == []


def test_a_unit_that_runs_is_older_than_what_was_written_since(
    module: Module, tmp_path: Path
) -> None:
    unit = {"name": "a", "files": [str(written(tmp_path / "configuration", NOW - 3600))]}
    written(tmp_path / "a.service", NOW - 3600)
    assert module(unit)["orders"] == ["start a.service"]
    assert not module(unit)["changed"]
    written(tmp_path / "configuration", time.time() + 1)
    for check in (True, False):
        said = module(unit, check=check)
        assert said["older"] == ["a"] and said["changed"] and said["orders"] == []
