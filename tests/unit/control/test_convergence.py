"""How the modules that provision do their steps: late answers, failures, check mode."""

from collections.abc import Callable, Mapping
from typing import Any

import pytest
from botocore.exceptions import ClientError

from superset_fleet.cloud.client import AwsError
from superset_fleet.cloud.groups import tags_of
from superset_fleet.control.convergence import Step, converge, tag_steps

REGION = "us-east-1"


def refusal(code: str) -> ClientError:
    return ClientError({"Error": {"Code": code, "Message": "no"}}, "CreateThing")


class Things:
    """A cloud of things that are there or not, and that fails as it is told."""

    def __init__(self, *failures: Exception, shows: bool = True) -> None:
        self.there: dict[str, str] = {}
        self.failures = list(failures)
        self.shows = shows

    def read(self) -> dict[str, str]:
        return dict(self.there)

    def apply(self, step: Step) -> None:
        if self.failures:
            raise self.failures.pop()
        if self.shows:
            self.there[step.name] = step.value


def all_of(wanted: Mapping[str, str]) -> Callable[[Mapping[str, str]], list[Step]]:
    def plan(current: Mapping[str, str]) -> list[Step]:
        return [Step("make", name, value) for name, value in wanted.items() if name not in current]

    return plan


PLAN = all_of({"one": "1", "two": "2"})


def test_steps_are_done_and_read_back() -> None:
    before, steps, after = converge(Things(), PLAN, REGION, check_mode=False)
    assert (before, list(map(str, steps))) == ({}, ["make one", "make two"])
    assert after == {"one": "1", "two": "2"}


def test_check_mode_tells_the_steps_and_does_none() -> None:
    things = Things()
    _, steps, after = converge(things, PLAN, REGION, check_mode=True)
    assert (len(steps), after, things.there) == (2, {}, {})


@pytest.mark.parametrize("code", ["InvalidGroup.NotFound", "NoSuchEntity"])
def test_a_step_whose_object_is_not_known_yet_is_tried_again(code: str) -> None:
    things = Things(refusal(code))
    _, _, after = converge(things, PLAN, REGION, check_mode=False)
    assert after == {"one": "1", "two": "2"}


@pytest.mark.parametrize("code", ["InvalidGroup.NotFound", "UnauthorizedOperation"])
def test_a_failure_names_the_step_and_the_remedy(code: str) -> None:
    things = Things(*[refusal(code)] * 9)
    with pytest.raises(
        AwsError, match=f"^make one: region {REGION}: CreateThing: no .{code}."
    ) as it:
        converge(things, PLAN, REGION, check_mode=False, settling_seconds=0)
    assert it.value.code == code


def test_what_the_cloud_does_not_show_is_no_success() -> None:
    with pytest.raises(AwsError, match=r"make one, make two: was done, and .* does not show it"):
        converge(Things(shows=False), PLAN, REGION, check_mode=False, settling_seconds=0)


def test_a_value_is_not_in_the_words_of_a_step() -> None:
    assert "secret" not in repr(Step("store", "name", "secret"))


def test_tags_of_the_cloud_itself_are_nobody_s_to_remove() -> None:
    listed: list[dict[str, Any]] = [
        {"Key": "aws:cloudformation:stack-name", "Value": "x"},
        {"Key": "owner", "Value": "me"},
    ]
    [tag, untag] = tag_steps("thing", tags_of(listed), {"fleet": "superset"})
    assert (tag.value, untag.value) == ({"fleet": "superset"}, ["owner"])
