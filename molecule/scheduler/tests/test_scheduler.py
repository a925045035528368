"""What the workers may rely on: of all beats one acts, and another one when that dies."""

import pytest

from tests.support.deployed import leading
from tests.support.deployed.fleet import BEAT, wait
from tests.support.deployed.leading import root, said

testinfra_hosts = ["ansible://scheduler"]

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


def test_one_beat_leads_and_the_others_wait(schedulers):
    leading.check_one_leads(schedulers, BEAT)


def test_another_beat_sends_what_is_due_when_the_leader_is_killed(schedulers, pulse):
    beat, _ = leading.leaders(schedulers, [BEAT])[BEAT]
    wait("the task is sent", lambda: said(beat, BEAT, pulse))

    def sends(units):
        _, others = units[BEAT]
        wait("another one sends it", lambda: any(said(other, BEAT, pulse) for other in others))

    leading.check_others_lead_when_the_leaders_are_killed(schedulers, [BEAT], sends)


def test_a_beat_that_was_killed_starts_again(schedulers):
    leading.check_killed_services_start_again(schedulers, [BEAT])


def test_another_beat_leads_when_the_leader_is_stopped(schedulers):
    leading.check_others_lead_when_the_leaders_are_stopped(schedulers, [BEAT])


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
