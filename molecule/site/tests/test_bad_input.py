"""What is wrong is said in one message, with the remedy, before anything is half done."""

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import boto3
import pytest
import yaml
from support import Play, replaced, stopped

from superset_fleet.ansible import ROOT, run_module

SECRET = "/superset-fleet/superset/secrets/redis_results_password"


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


def test_a_mistyped_variable_is_refused_with_the_name_that_was_meant(play: Play) -> None:
    output = refused(play, "--extra-vars", "superset_web_timeout_second=90")
    assert "superset_web_timeout_second" in output
    assert "superset_web_timeout_seconds" in output


def test_times_that_do_not_fit_are_refused_with_both_names_and_values(play: Play) -> None:
    output = refused(play, "--extra-vars", '{"haproxy_server_timeout_seconds": 30}')
    assert "haproxy_server_timeout_seconds" in output
    assert "superset_web_timeout_seconds" in output


def test_a_missing_secret_is_named_with_the_playbook_that_makes_it(play: Play) -> None:
    with lost_secret(SECRET):
        output = refused(play)
    assert "redis_results_password" in output
    assert "provision.yml" in output


def test_an_unreachable_machine_is_named_before_others_are_changed(
    play: Play, tmp_path: Path
) -> None:
    source = tmp_path / "static.yml"
    ghost = {
        "ghost": {"ansible_host": "127.0.0.2", "private_address": "127.0.0.2", "ansible_port": 9}
    }
    source.write_text(yaml.safe_dump({"superset_web": {"hosts": ghost}}))
    inventories = ["--inventory", "inventory/local.asg.yml", "--inventory", str(source)]
    assert "ghost" in refused(play, *inventories)


def test_an_empty_group_is_named(play: Play) -> None:
    output = refused(play, "--extra-vars", '{"fleet_group_sizes": {"redis": 0}}')
    assert "redis" in output


def test_another_operating_system_is_refused(play: Play) -> None:
    with replaced("celery_worker[0]", "/etc/debian_version", "^12", "11"):
        output = refused(play)
    assert "runs Debian 11" in output
    assert "Debian 12" in output


def test_a_port_that_something_else_holds_is_refused_with_its_holder(play: Play) -> None:
    squatter = "systemd-run --unit squatter python3 -m http.server 8088"
    with stopped("superset_web[0]", "superset-web"):
        run_module("superset_web[0]", "ansible.builtin.command", {"cmd": squatter}, become=True)
        try:
            output = refused(play, playbook="superset_web")
        finally:
            end = {"name": "squatter", "state": "stopped"}
            run_module("superset_web[0]", "ansible.builtin.systemd_service", end, become=True)
    assert "8088" in output
    assert "squatter.service" in output


def test_a_database_that_is_down_is_named(play: Play) -> None:
    with stopped("postgres", "postgresql@15-main"):
        output = refused(play, playbook="superset")
    assert "5432" in output


@pytest.mark.parametrize("instance", ["coordination", "results", "cache"])
def test_a_redis_that_is_down_is_named(play: Play, instance: str) -> None:
    with stopped("redis", f"redis-server@{instance}"):
        output = refused(play, playbook="superset")
    assert instance in output


def test_a_password_that_redis_refuses_is_named(play: Play) -> None:
    output = refused(play, "--extra-vars", "redis_results_password=wrong", playbook="superset")
    assert "results" in output
    assert "password" in output


def test_an_extra_package_without_a_version_is_refused(play: Play) -> None:
    wanted = '{"superset_extra_packages": ["authlib"]}'
    output = refused(play, "--extra-vars", wanted, playbook="superset")
    assert "exact versions" in output
    assert "authlib" in output


def test_overrides_that_break_superset_are_refused_before_a_service_meets_them(
    play: Play, tmp_path: Path
) -> None:
    overrides = tmp_path / "overrides.py"
    overrides.write_text("from no_such_library import nothing\n")
    done = play("superset", "--extra-vars", f"superset_config_overrides={overrides}")
    mended = play("scheduler")  # where Superset was tried out, they stay until the next run
    assert done.returncode != 0
    assert "no_such_library" in done.stdout
    assert mended.returncode == 0, mended.stdout


def test_a_disk_without_room_is_refused(play: Play) -> None:
    output = refused(play, "--extra-vars", '{"common_free_disk_mb": 10000000}')
    assert "10000000 MB" in output


def test_when_all_is_mended_the_fleet_stands_and_another_run_changes_nothing(play: Play) -> None:
    done = play("site")
    assert done.returncode == 0, done.stdout
    assert {*re.findall(r"changed=\d+", done.stdout)} == {"changed=0"}, done.stdout
