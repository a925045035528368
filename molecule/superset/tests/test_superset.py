"""What every machine of Superset has: packages, configuration, facts; and the database."""

import hashlib

import pytest

from superset_fleet.control.ask import ROOT
from superset_fleet.state.jobs import TASKS

testinfra_hosts = ["ansible://scheduler"]

SUPERSET = "SUPERSET_CONFIG_PATH=/etc/superset/superset_config.py /opt/superset/venv/bin/superset"


@pytest.fixture(autouse=True)
def root(host):
    with host.sudo():
        yield


def test_the_admin_account_is_there(host, fact):
    accounts = host.check_output("superset-admin fab list-users")
    assert f"username:{fact('superset_admin_username')} " in accounts
    assert "role:[Admin]" in accounts


def test_a_connection_whose_other_side_is_gone_is_noticed_within_a_minute(host):
    idle, between, times = (
        int(host.check_output(f"cat /proc/sys/net/ipv4/tcp_keepalive_{name}"))
        for name in ("time", "intvl", "probes")
    )
    assert idle + between * times < 60


def test_the_installed_packages_are_the_locked_ones(host):
    lines = host.check_output("cat /opt/superset/requirements.txt").splitlines()
    locked = {line.split()[0] for line in lines if "==" in line and ";" not in line}
    frozen = host.check_output("/opt/superset/uv/bin/uv pip freeze --python /opt/superset/venv")
    assert locked - set(frozen.splitlines()) == set()


@pytest.mark.parametrize("facts", ["/nonexistent", "/dev/null", "/etc/hostname"])
def test_facts_that_cannot_be_used_are_one_clear_error(host, facts):
    refused = host.run(f"SUPERSET_FACTS={facts} {SUPERSET} version")
    assert refused.rc != 0
    assert f"The facts file {facts} cannot be used" in refused.stderr
    assert "Traceback" not in refused.stderr


def test_the_guard_is_that_of_this_checkout(host):
    installed = "/opt/superset/venv/lib/python3.11/site-packages/superset_fleet/"
    files = [
        path.relative_to(ROOT / "src/superset_fleet")
        for path in (ROOT / "src/superset_fleet/guard").rglob("*")
        if path.suffix in {".py", ".html"}
    ]
    sums = host.check_output(f"cd {installed}; sha256sum {' '.join(map(str, files))}").split()
    here = [
        hashlib.sha256((ROOT / "src/superset_fleet" / path).read_bytes()).hexdigest()
        for path in files
    ]
    assert sums[::2] == here


@pytest.mark.parametrize("task", TASKS)
def test_every_task_of_queries_and_charts_is_guarded(host, task):
    program = f"from superset_config import *; print(CELERY_CONFIG.task_annotations['{task}'])"
    shown = host.check_output(
        "cd /etc/superset; SUPERSET_FACTS=/etc/superset/facts.json "
        f'/opt/superset/venv/bin/python -c "{program}"'
    )
    assert "@apply_async" in shown
    assert "@run" in shown
    assert "soft_time_limit" in shown


def test_the_facts_are_roots_alone(host):
    assert host.run("runuser -u superset -- cat /etc/superset/facts.json").rc != 0


def test_nothing_secret_is_in_the_configuration(host, fact):
    text = host.check_output(
        "cat /etc/superset/*.py /etc/systemd/system/*.service /usr/local/bin/*"
    )
    secrets = ("superset_secret_key", "superset_database_password", "superset_admin_password")
    assert [name for name in secrets if fact(name) in text] == []
