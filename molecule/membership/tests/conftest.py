"""What fleet-membership is asked by the tests."""

import json

import pytest


@pytest.fixture
def told(host):
    """What it sees and would do now."""

    def told():
        with host.sudo():
            command = "/opt/fleet/venv/bin/python -m superset_fleet.membership --dry-run"
            state = json.loads(host.check_output(command))
        # HAProxy has them in the order in which they came.
        return state | {"servers": sorted(state["servers"], key=lambda each: each["name"])}

    return told
