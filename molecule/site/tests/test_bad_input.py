"""What is wrong is said in one message, with the remedy, before anything is half done."""

import json
import os
import re
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import boto3
import pytest
import yaml
from support import Play, replaced

from superset_fleet.control.ask import ROOT
from tests.support.deployed.fleet import Fleet

SECRET = "/superset-fleet/superset/secrets/redis_cache_password"


def refused(play: Play, *arguments: str, playbook: str = "site") -> str:
    """Return the output of a playbook that has to fail without having changed anything."""
    done = play(playbook, *arguments)
    assert done.returncode != 0, done.stdout
    assert not re.search(r"changed=[1-9]", done.stdout), done.stdout
    return re.sub(r"\s+", " ", done.stdout)


@contextmanager
def lost_secret(name: str) -> Iterator[None]:
    os.environ["AWS_CONFIG_FILE"] = str(ROOT / ".localcloud/aws.ini")
    store = boto3.Session().client("ssm")
    value = store.get_parameter(Name=name, WithDecryption=True)["Parameter"]["Value"]
    store.delete_parameter(Name=name)
    try:
        yield
    finally:
        store.put_parameter(Name=name, Value=value, Type="SecureString")


def test_all_that_is_wrong_with_the_variables_is_said_with_names_values_and_remedies(
    play: Play,
) -> None:
    wrong = {
        "superset_web_timeout_second": 90,
        "haproxy_server_timeout_seconds": 30,
        "fleet_group_sizes": {"redis": 0},
    }
    with lost_secret(SECRET):
        output = refused(play, "--extra-vars", json.dumps(wrong))
    mistyped = "superset_web_timeout_second is read by nothing in the fleet: did you mean"
    assert f"{mistyped} superset_web_timeout_seconds?" in output
    assert "superset_web_timeout_seconds (120)" in output
    assert "haproxy_server_timeout_seconds (30)" in output
    assert "group redis has no machine" in output
    lost = "secret vault_redis_cache_password has no value: run playbooks/provision.yml"
    assert lost in output


def test_machines_that_cannot_be_used_are_named_before_others_are_changed(
    play: Play, fleet: Fleet, tmp_path: Path
) -> None:
    source = tmp_path / "static.yml"
    ghost = {
        "ghost": {"ansible_host": "127.0.0.2", "private_address": "127.0.0.2", "ansible_port": 9}
    }
    source.write_text(yaml.safe_dump({"superset_web": {"hosts": ghost}}))
    inventories = ["--inventory", "inventory/local.asg.yml", "--inventory", str(source)]
    old = fleet.one("celery_worker")
    with replaced(old, "/usr/lib/os-release", 'ID="12"', 'ID="11"'):
        output = refused(play, *inventories)
    assert "ghost (127.0.0.2) cannot be reached" in output
    assert f"{old.host} runs Debian 11; the fleet runs on Debian 12 only" in output


def test_a_port_that_something_else_holds_is_refused_with_its_holder(
    play: Play, fleet: Fleet
) -> None:
    web = fleet.one("superset_web")
    with web.without("superset-web"):
        web.run("systemd-run --unit squatter python3 -m http.server 8088")
        try:
            output = refused(play, "--limit", web.name, playbook="superset_web")
        finally:
            web.run("systemctl stop squatter")
    assert "8088" in output
    assert "squatter.service" in output


@pytest.fixture
def one(fleet: Fleet) -> list[str]:
    """Options for one of the machines that have Superset: what is refused there is for all."""
    return ["--limit", fleet.one("scheduler").name]


def test_all_that_superset_cannot_reach_is_named(play: Play, fleet: Fleet, one: list[str]) -> None:
    redis = fleet.one("redis")
    with ExitStack() as down:
        down.enter_context(fleet.one("postgres").without("postgresql@15-main"))
        for instance in ("coordination", "cache"):
            down.enter_context(redis.without(f"redis-server@{instance}"))
        wrong = "redis_results_password=wrong"
        output = refused(play, *one, "--extra-vars", wrong, playbook="superset")
    assert re.search(r"the metadata database superset at [\d.]+:5432 refuses user", output)
    for instance in ("coordination", "cache"):
        assert re.search(rf"Redis {instance} at [\d.:]+ does not answer", output)
    assert re.search(r"Redis results at [\d.:]+ refuses the password", output)


def test_an_extra_package_without_a_version_is_refused(play: Play, one: list[str]) -> None:
    wanted = '{"superset_extra_packages": ["authlib"]}'
    output = refused(play, *one, "--extra-vars", wanted, playbook="superset")
    assert "exact versions" in output
    assert "authlib" in output


def test_overrides_that_break_superset_are_refused_before_a_service_meets_them(
    play: Play, one: list[str], tmp_path: Path
) -> None:
    overrides = tmp_path / "overrides.py"
    overrides.write_text("from no_such_library import nothing\n")
    done = play("superset", *one, "--extra-vars", f"superset_config_overrides={overrides}")
    mended = play("scheduler", *one)  # where Superset was tried out, they stay until the next run
    assert done.returncode != 0
    assert "no_such_library" in done.stdout
    assert mended.returncode == 0, mended.stdout
