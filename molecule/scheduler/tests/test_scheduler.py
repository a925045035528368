"""What the workers may rely on: of all schedulers one acts, and another one when that dies."""

from contextlib import contextmanager

import pytest
import testinfra

from tests.support.deployed.fleet import wait

testinfra_hosts = ["ansible://scheduler"]

BEAT, WATCHDOG, SCALER = "celery-beat", "superset-watchdog", "fleet-scaler"
# What a service writes into its journal when it begins to lead, and when that is over.
LEADS = {BEAT: "Acquired lock", WATCHDOG: "event=leads", SCALER: "event=leads"}
CHANGES = {BEAT: LEADS[BEAT], WATCHDOG: "event=(leads|follows)", SCALER: "event=(leads|follows)"}
TAKES_OVER_SECONDS = 15
UNITS = pytest.mark.parametrize("unit", LEADS)
LIFE = "systemctl show --property InvocationID --value {}"

# A task that does nothing, every second, and one that the configuration has no more.
SCHEDULE = """
from celery import Celery
from celery.schedules import schedule
from redbeat import RedBeatSchedulerEntry
from superset_fleet.state import facts

app = Celery()
app.conf.redbeat_redis_url = facts.redis_url(
    facts.load()["redis"]["coordination"], facts.SCHEDULE
)
app.conf.redbeat_redis_options = {{}}
entry = RedBeatSchedulerEntry("{name}", "celery.backend_cleanup", schedule({seconds}), app=app)
entry.{action}()
"""


@pytest.fixture
def schedulers(request):
    """All machines of the group."""
    inventory = request.config.option.ansible_inventory
    return testinfra.get_hosts(testinfra_hosts, ansible_inventory=inventory)


def schedule(host, action, name, seconds=1):
    """Save or delete an entry of the schedule."""
    program = SCHEDULE.format(action=action, name=name, seconds=seconds)
    with host.sudo():
        host.check_output(
            f"SUPERSET_FACTS=/etc/superset/facts.json /opt/superset/venv/bin/python -c '{program}'"
        )


@pytest.fixture
def pulse(schedulers):
    """A task that is due every second: what a beat writes when it sends it."""
    schedule(schedulers[0], "save", "pulse")
    yield "Sending due task pulse "
    schedule(schedulers[0], "delete", "pulse")


def said(host, unit, pattern):
    """Return the last line with a pattern that a unit wrote since it was started, or ''."""
    with host.sudo():
        life = host.check_output(LIFE.format(unit))
        journal = f"journalctl --quiet _SYSTEMD_INVOCATION_ID={life} --reverse --lines 1"
        return host.run(f"{journal} --grep '{pattern}'").stdout


def leading(hosts, unit):
    """Return those of the machines whose unit leads."""
    return [host for host in hosts if LEADS[unit] in said(host, unit, CHANGES[unit])]


def leaders(hosts):
    """Return for each unit the machine where it leads, and the others."""
    found = {}
    for unit in LEADS:
        wait(f"one {unit} leads", lambda unit=unit: len(leading(hosts, unit)) == 1)
        (one,) = leading(hosts, unit)
        found[unit] = one, [host for host in hosts if host is not one]
    return found


def root(host, command):
    """Run a command as root."""
    with host.sudo():
        return host.check_output(command)


@contextmanager
def without(units, command):
    """Let machines lose a unit each, by a command; start these again in the end only."""
    for unit, (one, _) in units.items():
        root(one, command.format(unit))
    try:
        yield
    finally:
        for unit, (one, _) in units.items():
            root(one, f"systemctl start {unit}")


def wait_until_others_lead(units):
    """Wait until each unit leads on another machine than before."""
    for unit, (_, others) in units.items():
        wait(
            f"another {unit} leads",
            lambda unit=unit, others=others: leading(others, unit),
            TAKES_OVER_SECONDS,
        )


@UNITS
def test_a_service_that_waits_for_the_lead_has_started_all_the_same(host, unit):
    service = host.service(unit)
    assert service.is_running
    assert service.is_enabled


@UNITS
def test_one_of_all_leads(schedulers, unit):
    assert len(schedulers) > 1
    assert len(wait(f"a {unit} leads", lambda: leading(schedulers, unit))) == 1


def test_others_lead_and_send_what_is_due_when_the_leaders_are_killed(schedulers, pulse):
    units = leaders(schedulers)
    beat, others = units[BEAT]
    wait("the task is sent", lambda: said(beat, BEAT, pulse))
    with without(units, "systemctl kill --signal KILL {0}; systemctl stop {0}"):
        wait_until_others_lead(units)
        wait("another one sends it", lambda: any(said(other, BEAT, pulse) for other in others))
    for unit, (_, others) in units.items():
        assert leading(schedulers, unit) == leading(others, unit)


def test_services_that_were_killed_start_again(schedulers):
    units = leaders(schedulers)
    lives = {unit: root(one, LIFE.format(unit)) for unit, (one, _) in units.items()}
    for unit, (one, _) in units.items():
        root(one, f"systemctl kill --signal KILL {unit}")
    for unit, (one, _) in units.items():
        wait(
            f"{unit} is back",
            lambda unit=unit, one=one: (
                root(one, LIFE.format(unit)) != lives[unit] and one.service(unit).is_running
            ),
        )
    leaders(schedulers)


def test_others_lead_when_the_leaders_are_stopped(schedulers):
    units = leaders(schedulers)
    with without(units, "systemctl stop {0}"):
        wait_until_others_lead(units)
        for unit, (one, _) in units.items():
            assert root(one, f"systemctl show --property Result --value {unit}") == "success"


def test_a_task_that_is_configured_no_more_vanishes(host, fact):
    redis = fact("superset_facts")["redis"]["coordination"]
    ask = f"REDISCLI_AUTH={redis['password']} redis-cli -h {redis['host']} -p {redis['port']} -n 4 "
    schedule(host, "save", "gone", 3600)
    host.check_output(ask + "sadd redbeat::statics gone")
    with host.sudo():
        host.check_output(f"systemctl restart {BEAT}")
    assert "gone" not in host.check_output(ask + "smembers redbeat::statics")
    assert "redbeat:gone" not in host.check_output(ask + "zrange redbeat::schedule 0 -1")


def test_no_minute_s_task_was_sent_twice(schedulers):
    """Holds of all minutes up to now, with what the tests above did in some of them."""
    minutes = []
    for host in schedulers:
        lines = root(
            host,
            f"journalctl --quiet --unit {BEAT} --output short-unix"
            " --grep 'Sending due task reports.scheduler' || true",
        ).splitlines()
        minutes += [int(float(line.split()[0])) // 60 for line in lines]
    assert minutes
    assert len(minutes) == len(set(minutes))
