"""subnets: which addresses each zone gets, and what is done where they are not as wanted."""

from dataclasses import replace

import pytest
from subnets import Subnet, SubnetError, plan, wanted_subnets

ZONES = ["a", "b", "c"]
FIRST = "10.80.4.0/22"


def wanted(zones: list[str] = ZONES) -> dict[str, Subnet]:
    return wanted_subnets("superset", "10.80.0.0/20", zones, {"fleet": "superset"})


def test_each_zone_has_a_subnet_and_the_first_part_stays_free() -> None:
    assert {block: subnet.zone for block, subnet in wanted().items()} == {
        FIRST: "a",
        "10.80.8.0/22": "b",
        "10.80.12.0/22": "c",
    }
    assert wanted()[FIRST].tags == {"fleet": "superset", "Name": "superset-a"}


def test_a_subnet_is_made_and_gives_public_addresses() -> None:
    assert [str(step) for step in plan({}, wanted(["a"]))] == [
        f"create {FIRST}",
        f"give public addresses in {FIRST}",
    ]
    assert plan(wanted(), wanted()) == []


def test_what_drifted_is_brought_back() -> None:
    there = wanted() | {FIRST: replace(wanted()[FIRST], tags={"owner": "me"}, public=False)}
    assert [step.verb for step in plan(there, wanted())] == [
        "tag",
        "untag",
        "give public addresses in",
    ]


def test_more_zones_than_the_vpc_has_room_for_are_refused() -> None:
    with pytest.raises(SubnetError, match="has room for 3 subnets"):
        wanted([*ZONES, "d"])


def test_zones_in_another_order_are_refused() -> None:
    with pytest.raises(SubnetError, match=f"subnet {FIRST} is in zone a and not in b"):
        plan(wanted(), wanted(["b", "a"]))
