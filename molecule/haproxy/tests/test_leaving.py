"""Web machines leave and come back, and users who ask all the time do not notice."""

import time

import pytest

from tests.support.deployed import machines
from tests.support.deployed.fleet import operator, wait
from tests.support.deployed.groups import Rotation
from tests.support.deployed.load import POST, Load, pages

testinfra_hosts = ["ansible://haproxy"]

UNIT = "superset-web"


@pytest.fixture(scope="module")
def in_rotation():
    """Tell whether HAProxy sends requests to a machine."""
    rotation = Rotation()
    return lambda machine: machine.name in rotation.up()


@pytest.fixture
def webs(in_rotation):
    """Two web machines or more, all of them in rotation before and after."""
    webs = machines.find("superset_web")
    assert len(webs) > 1

    def settled():
        return all(in_rotation(machine) for machine in webs)

    wait("all web machines are in rotation", settled)
    yield webs
    wait("all web machines are in rotation", settled, 180)


@pytest.fixture
def web(webs):
    """One of them."""
    return webs[0]


@pytest.fixture
def users(fact):
    """Start users who ask all the time."""
    url, ca_certificate = fact("superset_url"), fact("haproxy_ca_certificate")

    def users(requests=None):
        return Load(url, ca_certificate, requests or pages(url, ca_certificate))

    return users


def test_no_request_is_lost_when_an_operator_drains_a_machine_and_lets_it_in_again(
    web, users, in_rotation
):
    with users() as load:
        status, said = operator("drain", web.name)
        assert (status, said.splitlines()[-1].endswith("serves nothing")) == (0, True), said
        assert not in_rotation(web)
        status, said = operator("drain", "--undo", web.name)
        assert (status, said.splitlines()[-1].endswith("gets requests")) == (0, True), said
        assert in_rotation(web)
        load.more(100)
    assert not load.failed, load.report()


# Writes down when the service answered last, until it refuses connections (7).
PROBE = """
while curl --silent --fail --max-time 10 http://127.0.0.1:{port}/health >/dev/null
      status=$?; test $status != 7
do test $status != 0 || date +%s.%N >/run/answered; sleep 0.1
done
"""


def restart(machine, port, in_rotation):
    """Restart the service; return when it answered last, and when HAProxy last used it."""
    probe = PROBE.format(port=port)
    machine.run(f"rm -f /run/answered; setsid sh -c '{probe}' </dev/null >/dev/null 2>&1 &")
    wait("the probe has an answer", lambda: machine.run("cat /run/answered", check=False))
    used = time.time()
    machine.run(f"systemctl restart --no-block {UNIT}")

    def noticed():
        nonlocal used
        began = time.time()
        if in_rotation(machine):
            used = began
            return False
        return True

    wait("HAProxy has noticed", noticed)
    wait("it is back", lambda: in_rotation(machine), 120)
    answered = float(machine.run("cat /run/answered; rm /run/answered"))
    return answered, used


def test_no_request_is_lost_when_web_servers_are_restarted_one_after_the_other(
    webs, users, in_rotation, fact
):
    """Each serves on until HAProxy has noticed; a start takes back that the first was drained."""
    with users() as load:
        assert operator("drain", webs[0].name)[0] == 0
        for machine in webs:
            answered, used = restart(machine, fact("superset_web_port"), in_rotation)
            assert answered >= used
        wait("all serve again", lambda: all(in_rotation(machine) for machine in webs), 180)
        load.more(100)
    assert not load.failed, load.report()


@pytest.mark.parametrize("group", ["no such machine", "scheduler"])
def test_only_a_machine_that_takes_work_can_be_drained(group):
    name = group if " " in group else machines.find(group)[0].name
    status, said = operator("drain", name)
    assert status == 1
    assert f"{name} is no machine of superset_web or celery_worker" in said


def test_requests_are_lost_with_a_web_server_that_is_killed(web, users):
    """The load notices what goes wrong, or the tests above would prove nothing."""
    with users([POST]) as load:
        with web.paused(UNIT):
            wait("a request waits for the machine", lambda: load.longest_wait() > 1)
            web.signal(UNIT, "KILL")
        wait("requests fail", lambda: load.failed["status 502"])
        load.more(100)
    assert load.failed.total() <= 8, load.report()  # no more than were in flight
