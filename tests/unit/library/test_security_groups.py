"""security_groups: which rules the openings of a fleet stand for, and how they come to be."""

from dataclasses import replace
from typing import Any

import pytest
from security_groups import Group, OpeningError, Rule, plan, wanted_groups

FLEET = "superset"
WEB, HAPROXY = "superset-superset_web", "superset-haproxy"
OPENINGS: dict[str, list[Any]] = {
    # Each names the other.
    "haproxy": [
        {"ports": [80, 443], "cidr_ip": ["192.0.2.0/24"]},
        {"ports": [8090], "group_name": [WEB]},
    ],
    "superset_web": [{"ports": ["8088-8089"], "group_name": HAPROXY}],
}
CONTROL = ["10.0.0.0/8"]


def wanted(openings: dict[str, list[Any]] = OPENINGS) -> dict[str, Group]:
    return wanted_groups(FLEET, openings, CONTROL, {"fleet": FLEET})


def test_openings_are_rules_and_ssh_is_open_to_control() -> None:
    groups = wanted()
    assert groups[HAPROXY].rules == {
        Rule("192.0.2.0/24", "tcp", 80, 80),
        Rule("192.0.2.0/24", "tcp", 443, 443),
        Rule(WEB, "tcp", 8090, 8090),
        Rule("10.0.0.0/8", "tcp", 22, 22),
    }
    assert Rule(HAPROXY, "tcp", 8088, 8089) in groups[WEB].rules
    assert groups[WEB].tags == {"fleet": FLEET, "role": "superset_web"}


def test_all_groups_are_made_before_a_rule_names_one() -> None:
    assert [str(step) for step in plan({}, wanted())] == [
        f"create {HAPROXY}",
        f"create {WEB}",
        f"allow {HAPROXY}",
        f"allow {WEB}",
    ]


def test_nothing_is_done_where_all_is_as_wanted() -> None:
    assert plan(wanted(), wanted()) == []


def test_who_is_let_in_by_an_old_and_a_new_rule_is_never_shut_out() -> None:
    old = Rule("192.0.2.0/25", "tcp", 80, 80)
    there = wanted()
    new = there[HAPROXY].rules
    there[HAPROXY] = replace(there[HAPROXY], rules=new - {min(new)} | {old})
    allow, revoke = plan(there, wanted())
    assert (allow.verb, allow.value) == ("allow", {min(new)})
    assert (revoke.verb, revoke.value) == ("revoke", {old})


def test_tags_and_the_way_out_are_brought_back() -> None:
    there = wanted()
    tags = {"fleet": FLEET, "role": "web", "owner": "me"}
    there[WEB] = replace(there[WEB], tags=tags, outgoing=frozenset())
    tag, untag, out = plan(there, wanted())
    assert (tag.verb, tag.value) == ("tag", {"role": "superset_web"})
    assert (untag.verb, untag.value) == ("untag", ["owner"])
    assert out.verb == "let out"


@pytest.mark.parametrize(
    ("opening", "message"),
    [
        ({"ports": [80], "group_name": ["superset-hapoxy"]}, "haproxy: the fleet has no group"),
        ({"ports": [80], "cidr_ip": ["10.0.0.0/33"]}, "10.0.0.0/33 is not a network"),
        ({"ports": ["443-80"], "cidr_ip": CONTROL}, "haproxy: ports 443-80: write a port"),
        ({"ports": [70000], "cidr_ip": CONTROL}, "haproxy: ports 70000: write a port"),
        ({"ports": [80]}, "a rule has ports, and who may come in"),
        ({"cidr_ip": CONTROL}, "a rule has ports, and who may come in"),
        ({"ports": [80], "cidr": CONTROL}, "haproxy: cidr: no such word"),
        ({"ports": [80], "cidr_ip": CONTROL, "proto": "icmp"}, "haproxy: proto icmp: tcp or udp"),
    ],
)
def test_an_opening_that_says_nothing_clear_is_refused(
    opening: dict[str, Any], message: str
) -> None:
    with pytest.raises(OpeningError, match=message):
        wanted({"haproxy": [opening]})
