"""Of all watchdogs one acts, and of all scalers; another one when that dies."""

import pytest

from tests.support.deployed import leading
from tests.support.deployed.fleet import SCALER, WATCHDOG

testinfra_hosts = ["ansible://scheduler"]
DAEMONS = [WATCHDOG, SCALER]


@pytest.mark.parametrize("unit", DAEMONS)
def test_one_leads_and_the_others_wait(schedulers, unit):
    leading.check_one_leads(schedulers, unit)


def test_others_lead_when_the_leaders_are_killed(schedulers):
    leading.check_others_lead_when_the_leaders_are_killed(schedulers, DAEMONS)


def test_daemons_that_were_killed_start_again(schedulers):
    leading.check_killed_services_start_again(schedulers, DAEMONS)


def test_others_lead_when_the_leaders_are_stopped(schedulers):
    leading.check_others_lead_when_the_leaders_are_stopped(schedulers, DAEMONS)


def test_systemd_shows_who_leads(schedulers):
    show = f"systemctl show --property StatusText --value {WATCHDOG}"
    states = sorted(host.check_output(show) for host in schedulers)
    assert states == ["follows"] * (len(states) - 1) + ["leads"]


def test_no_watchdog_of_the_former_name_is_left(host):
    assert "superset-watchdog" not in host.run("systemctl list-units --all --plain").stdout
