"""The fleet's own package on a machine: its services can be started."""

import pytest

testinfra_hosts = ["ansible://superset_web"]


@pytest.mark.parametrize("service", ["agent", "agent.boot", "membership", "scaler"])
def test_what_a_service_needs_is_there(host, service):
    host.check_output("/opt/fleet/venv/bin/python -m superset_fleet.%s --help", service)


def test_there_is_one_release(host):
    assert len(host.check_output("ls /opt/fleet/venv/release-*").split()) == 1
