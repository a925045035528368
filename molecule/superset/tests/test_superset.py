"""What every machine of Superset has: packages, configuration, facts; and the database."""

import pytest

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


def test_the_installed_packages_are_the_locked_ones(host):
    lines = host.check_output("cat /opt/superset/requirements.txt").splitlines()
    locked = {line.split()[0] for line in lines if "==" in line and ";" not in line}
    frozen = host.check_output("/opt/superset/uv/bin/uv pip freeze --python /opt/superset/venv")
    assert locked - set(frozen.splitlines()) == set()


@pytest.mark.parametrize("facts", ["/nonexistent", "/dev/null", "/etc/hostname"])
def test_facts_that_cannot_be_used_are_one_clear_error(host, facts):
    refused = host.run(f"SUPERSET_FACTS={facts} {SUPERSET} version")
    assert refused.rc != 0
    assert f"the facts file {facts} cannot be used" in refused.stderr
    assert "Traceback" not in refused.stderr


def test_the_facts_are_roots_alone(host):
    assert host.run("runuser -u superset -- cat /etc/superset/facts.json").rc != 0


def test_nothing_secret_is_in_the_configuration(host, fact):
    text = host.check_output(
        "cat /etc/superset/*.py /etc/systemd/system/*.service /usr/local/bin/*"
    )
    secrets = ("superset_secret_key", "superset_database_password", "superset_admin_password")
    assert [name for name in secrets if fact(name) in text] == []
