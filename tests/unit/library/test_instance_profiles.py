"""instance_profiles: what is done for roles and policies that are not as wanted."""

from dataclasses import replace
from typing import Any

import pytest
from instance_profiles import Profile, plan, wanted_profiles

NAME = "superset-us-east-1-haproxy"
STATEMENT = {"Effect": "Allow", "Action": ["ec2:DescribeInstances"], "Resource": "*"}


def wanted() -> dict[str, Profile]:
    return wanted_profiles("superset", "us-east-1", {"haproxy": [STATEMENT]}, {"fleet": "superset"})


def verbs(current: dict[str, Profile]) -> list[str]:
    return [step.verb for step in plan(current, wanted())]


def test_a_role_comes_with_its_policy_in_an_instance_profile() -> None:
    assert verbs({}) == ["create role", "permit", "create instance profile", "fill"]
    assert verbs(wanted()) == []
    [profile] = wanted().values()
    assert profile.policy == {"Version": "2012-10-17", "Statement": [STATEMENT]}


@pytest.mark.parametrize(
    ("drift", "done"),
    [
        ({"description": "mine"}, ["describe"]),
        ({"trust": {"Version": "2012-10-17", "Statement": []}}, ["trust"]),
        ({"policy": {"Version": "2012-10-17", "Statement": []}}, ["permit"]),
        ({"policy": None}, ["permit"]),
        ({"tags": {"fleet": "superset"}}, ["tag"]),
        ({"tags": {"fleet": "superset", "role": "haproxy", "owner": "me"}}, ["untag"]),
        ({"holds": None}, ["create instance profile", "fill"]),
        ({"holds": ()}, ["fill"]),
        ({"holds": ("another",)}, ["empty", "fill"]),
    ],
)
def test_what_drifted_is_brought_back(drift: dict[str, Any], done: list[str]) -> None:
    assert verbs({NAME: replace(wanted()[NAME], **drift)}) == done
