"""asg_replacement against groups that behave as AWS's: who is replaced, and what is left after."""

from collections.abc import Callable

from asg_replacement import Group as Replacement
from asg_replacement import plan, rounds

from tests.localcloud.conftest import Group

REGION = "us-east-1"
SECONDS = 60


def replace(group: Group, surge: int, most: int = 20) -> list[str]:
    """Do up to so many rounds, and return what each one was."""
    replacement = Replacement(group.name, REGION)
    told: list[str] = []
    while len(told) < most and (step := plan(state := replacement.read(), surge)):
        replacement.apply(state, step, surge)
        replacement.wait(step.replaced + step.removed, SECONDS)
        told.append(step.verb)
    return told


def another(group: Group) -> str:
    """Let the group start other instances from now on."""
    group.data = {**group.data, "InstanceType": "t3.medium"}
    return group.new_version()


def sizes(group: Group) -> tuple[int, int, int]:
    said = group.describe()
    return said["DesiredCapacity"], said["MaxSize"], len(group.names("InService"))


def test_every_instance_is_replaced_and_the_group_is_as_large_as_before(
    new_group: Callable[..., Group],
) -> None:
    group = new_group(DesiredCapacity=3, MaxSize=3)
    before = set(group.names())
    version = another(group)
    assert replace(group, surge=1) == ["surge", "replace", "replace", "replace", "settle"]
    assert not before & set(group.names())
    assert set(group.versions()) == {version}
    assert sizes(group) == (3, 3, 3)
    assert "size_before" not in {tag["Key"] for tag in group.describe()["Tags"]}
    assert replace(group, surge=1) == []


def test_it_goes_on_after_an_interruption_as_if_there_had_been_none(
    new_group: Callable[..., Group],
) -> None:
    group = new_group(DesiredCapacity=3)
    another(group)
    assert replace(group, surge=1, most=3) == ["surge", "replace", "replace"]
    assert rounds(Replacement(group.name, REGION).read(), 1) == 2
    assert replace(group, surge=1) == ["replace", "settle"]
    assert sizes(group) == (3, 6, 3)


def test_a_version_that_says_the_same_makes_no_instance_old(group: Group) -> None:
    group.new_version()
    assert replace(group, surge=1) == []


def test_one_that_left_the_group_meanwhile_is_no_failure(new_group: Callable[..., Group]) -> None:
    group = new_group(DesiredCapacity=2)
    another(group)
    assert replace(group, surge=1, most=1) == ["surge"]
    replacement = Replacement(group.name, REGION)
    state = replacement.read()
    step = plan(state, 1)
    assert step and step.replaced
    replacement.terminate(step.replaced[0], removed=False)
    replacement.apply(state, step, 1)
    assert replace(group, surge=1)[-1] == "settle"
    assert sizes(group)[::2] == (2, 2)
