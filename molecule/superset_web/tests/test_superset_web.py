"""What the load balancer and the machine's neighbours may rely on."""

import json

import pytest

testinfra_hosts = ["ansible://superset_web"]

AS_THE_SERVICE = (
    "nsenter --target $(systemctl show --property MainPID --value superset-web) --mount "
    "setpriv --reuid superset --regid superset --clear-groups "
)


@pytest.fixture(autouse=True)
def root(host):
    with host.sudo():
        yield


def test_health_answers_on_its_endpoint(host, fact):
    url = f"http://{fact('superset_web_endpoint')}/health"
    program = f"import urllib.request as u; print(u.urlopen('{url}', timeout=5).read().decode())"
    assert host.check_output('python3 -c "%s"' % program) == "OK"  # noqa: UP031


def test_starts_at_boot(host):
    service = host.service("superset-web")
    assert service.is_running
    assert service.is_enabled


def test_every_process_is_its_own_users(host, fact):
    main = host.check_output("systemctl show --property MainPID --value superset-web")
    children = host.check_output(f"cat /proc/{main}/task/{main}/children").split()
    users = host.check_output(f"stat --format %U /proc/{' /proc/'.join([main, *children])}")
    assert users.split() == ["superset"] * (1 + fact("superset_web_processes"))


@pytest.mark.parametrize("directory", ["/etc/superset", "/opt/superset/venv", "/var/lib", "/usr"])
def test_it_can_write_nowhere_but_in_its_temporary_files(host, directory):
    assert host.run(AS_THE_SERVICE + "touch /tmp/here").rc == 0
    assert "Read-only" in host.run(AS_THE_SERVICE + f"touch {directory}/here").stderr


def test_its_user_has_the_facts_from_systemd_alone(host, fact):
    directory = "/run/credentials/superset-web.service"
    assert host.run("runuser -u superset -- cat /etc/superset/facts.json").rc != 0
    handed = host.check_output(f"runuser -u superset -- cat {directory}/facts")
    assert json.loads(handed) == fact("superset_facts")


def test_no_process_shows_a_secret(host, fact):
    shown = host.run("cat /proc/[0-9]*/cmdline /proc/[0-9]*/environ").stdout
    facts = fact("superset_facts")
    secrets = [facts["secret_key"], facts["database"]["password"]]
    secrets += [instance["password"] for instance in facts["redis"].values()]
    assert [secret for secret in secrets if secret in shown] == []
