"""Filters of the plays: programs that Jinja would have to be otherwise."""

from typing import Any

import pytest
from filters.fleet_filters import FilterModule

FILTERS = FilterModule().filters()


def test_a_group_has_the_role_of_its_name_unless_it_says_another() -> None:
    groups: dict[str, dict[str, Any]] = {"worker": {"min": 1}, "reports": {"role": "worker"}}
    assert FILTERS["group_roles"](groups) == {"worker": "worker", "reports": "worker"}


def test_groups_come_role_by_role_and_those_of_other_roles_do_not() -> None:
    roles = {"web": "web", "worker": "worker", "reports": "worker", "beat": "beat"}
    assert FILTERS["groups_of"](roles, ["worker", "web", "none"]) == ["worker", "reports", "web"]


def test_machines_are_numbered_from_one() -> None:
    assert FILTERS["numbered"]({"redis": 2, "postgres": 0}) == [
        {"role": "redis", "number": 1},
        {"role": "redis", "number": 2},
    ]


def image(name: str, **tags: str) -> dict[str, Any]:
    return {"image_id": name, "tags": tags}


@pytest.mark.parametrize(
    ("images", "kind", "parent"),
    [
        ([image("mine", base="new")], "base", "new"),
        ([image("mine", base="new")], "newest", "mine"),
        ([image("mine", base="new"), image("mine too", base="new")], "newest", "mine too"),
        ([image("mine", base="old")], "newest", "new"),
        ([image("mine", base="new"), image("without")], "newest", "mine"),
        ([], "newest", "new"),
    ],
)
def test_an_image_is_made_on_the_newest_that_fits(
    images: list[dict[str, Any]], kind: str, parent: str
) -> None:
    survey = {"base_images": [image("old"), image("new")], "images": images}
    assert FILTERS["parent_image"](survey, kind)["image_id"] == parent


def test_a_certificate_is_for_the_name_and_for_the_addresses_that_there_are() -> None:
    machines = [
        {"private_ip_address": "10.0.0.2", "public_ip_address": ""},
        {"private_ip_address": "10.0.0.1", "public_ip_address": "192.0.2.1"},
    ]
    assert FILTERS["certificate_names"](machines, "superset.internal") == [
        "DNS:superset.internal",
        "IP:10.0.0.1",
        "IP:10.0.0.2",
        "IP:192.0.2.1",
    ]
