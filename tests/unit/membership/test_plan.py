"""The plan: what is and what is wanted in, the next steps and their reasons out."""

from collections.abc import Mapping

import pytest

from superset_fleet.membership.haproxy import Server
from superset_fleet.membership.plan import plan, rendered, unproven


def address(number: int) -> str:
    return f"10.0.0.{number}:8088"


def wanted(*numbers: int) -> dict[str, str]:
    return {f"i-{number}": address(number) for number in numbers}


def has(*numbers: int, **states: Server) -> dict[str, Server]:
    servers = {f"i-{number}": Server(address(number)) for number in numbers}
    return servers | {name.replace("_", "-"): server for name, server in states.items()}


def server(number: int, state: str, sessions: int = 0) -> Server:
    return Server(address(number), state, True, sessions)


NOBODY: dict[str, str] = {}


@pytest.mark.parametrize(
    ("what", "current", "want", "answering", "leaving", "steps"),
    [
        ("all is as wanted", has(1, 2), wanted(1, 2), "", NOBODY, ""),
        ("a newcomer that answers", has(1), wanted(1, 2), "i-2", NOBODY, "add i-2"),
        ("a newcomer that does not", has(1), wanted(1, 2), "", NOBODY, "wait i-2"),
        ("the first servers", has(), wanted(1, 2), "i-1 i-2", NOBODY, "add i-1, add i-2"),
        (
            "one that was added and no more",
            has(1, i_2=server(2, "maint")),
            wanted(1, 2),
            "i-2",
            NOBODY,
            "ready i-2",
        ),
        (
            "one that left and came back",
            has(1, i_2=server(2, "drain", 3)),
            wanted(1, 2),
            "i-2",
            NOBODY,
            "ready i-2",
        ),
        (
            "one that came back and does not answer",
            has(1, i_2=server(2, "drain", 3)),
            wanted(1, 2),
            "",
            NOBODY,
            "wait i-2",
        ),
        ("a leaver", has(1, 2), wanted(1), "", {"i-2": "is leaving"}, "drain i-2"),
        (
            "a leaver with requests",
            has(1, i_2=server(2, "drain", 3)),
            wanted(1),
            "",
            NOBODY,
            "wait i-2",
        ),
        (
            "a leaver without requests",
            has(1, i_2=server(2, "drain")),
            wanted(1),
            "",
            NOBODY,
            "delete i-2",
        ),
        (
            "a leaver that was to be deleted",
            has(1, i_2=server(2, "maint")),
            wanted(1),
            "",
            NOBODY,
            "delete i-2",
        ),
        (
            "newcomers come before leavers go",
            has(1, 2),
            wanted(2, 3),
            "i-3",
            NOBODY,
            "add i-3, drain i-1",
        ),
        (
            "another address",
            has(1, i_2=Server("10.9.9.9:8088")),
            wanted(1, 2),
            "i-2",
            NOBODY,
            "drain i-2",
        ),
        (
            "its checks fail: that is HAProxy's own business",
            has(1, i_2=Server(address(2), up=False)),
            wanted(1, 2),
            "",
            NOBODY,
            "",
        ),
        # More than half are missing.
        ("an empty answer", has(1, 2), wanted(), "", NOBODY, "keep i-1, keep i-2"),
        ("an empty answer about one", has(1), wanted(), "", NOBODY, "keep i-1"),
        (
            "a much shorter answer",
            has(1, 2, 3, 4),
            wanted(1),
            "",
            NOBODY,
            "keep i-2, keep i-3, keep i-4",
        ),
        ("half are missing", has(1, 2, 3, 4), wanted(1, 2), "", NOBODY, "drain i-3, drain i-4"),
        (
            "all are terminated",
            has(1, 2),
            wanted(),
            "",
            {"i-1": "terminated", "i-2": "terminated"},
            "drain i-1, drain i-2",
        ),
        (
            "some of those that are missing are terminated",
            has(1, 2, 3),
            wanted(),
            "",
            {"i-2": "terminated"},
            "drain i-2, keep i-1, keep i-3",
        ),
        (
            "others stand in for all",
            has(1, 2),
            wanted(3, 4),
            "i-3 i-4",
            NOBODY,
            "add i-3, add i-4, drain i-1, drain i-2",
        ),
        (
            "others are to stand in and do not answer",
            has(1, 2),
            wanted(3, 4),
            "",
            NOBODY,
            "wait i-3, wait i-4, keep i-1, keep i-2",
        ),
        (
            "a shorter answer while servers leave still",
            has(1, 2, i_3=server(3, "drain", 1), i_4=server(4, "drain", 1)),
            wanted(1),
            "",
            NOBODY,
            "wait i-3, wait i-4, keep i-2",
        ),
    ],
)
def test_the_next_steps(
    what: str,
    current: Mapping[str, Server],
    want: Mapping[str, str],
    answering: str,
    leaving: Mapping[str, str],
    steps: str,
) -> None:
    planned = plan(current, want, answering.split(), leaving, 0.5)
    assert ", ".join(f"{step.verb} {step.server}" for step in planned) == steps, what


@pytest.mark.parametrize(
    ("current", "want", "leaving", "reason"),
    [
        (has(1), wanted(1, 2), NOBODY, "is wanted and answers"),
        (
            has(1, i_2=server(2, "drain")),
            wanted(1, 2),
            NOBODY,
            "is wanted, answers, and was in drain",
        ),
        (has(1, 2), wanted(1), {"i-2": "is Standby"}, "is Standby"),
        (has(1, 2), wanted(1), NOBODY, "is not among the wanted servers"),
        (has(1, i_2=server(2, "drain", 3)), wanted(1), NOBODY, "still serves 3 requests"),
        (
            has(2),
            wanted(),
            NOBODY,
            "without those that are missing, 0 of 1 servers would be left, at least 1 must be, "
            "and nothing says that this one is gone",
        ),
    ],
)
def test_the_reason(
    current: Mapping[str, Server],
    want: Mapping[str, str],
    leaving: Mapping[str, str],
    reason: str,
) -> None:
    assert [step.reason for step in plan(current, want, ["i-2"], leaving, 0.5)] == [reason]


@pytest.mark.parametrize(
    ("removable", "verb"), [(0.0, "keep"), (0.5, "keep"), (0.75, "drain"), (1.0, "drain")]
)
def test_the_share_that_may_go_at_once_is_a_choice(removable: float, verb: str) -> None:
    steps = plan(has(1, 2, 3, 4), wanted(1), [], NOBODY, removable)
    assert [step.verb for step in steps] == [verb] * 3


def test_from_everywhere_it_comes_to_what_is_wanted() -> None:
    """Whatever state a step that was cut short has left."""
    states = ("ready", "drain", "maint")
    for first in (None, *states):
        for second in (None, *states):
            current = {
                f"i-{number}": server(number, state)
                for number, state in ((1, first), (2, second))
                if state
            }
            for _ in range(4):
                for step in plan(current, wanted(2), ["i-2"], {"i-1": "terminated"}, 0.5):
                    if step.verb == "delete":
                        del current[step.server]
                    else:
                        state = "drain" if step.verb == "drain" else "ready"
                        current[step.server] = Server(step.address, state)
            assert current == has(2), (first, second)


def test_only_servers_that_are_not_in_use_are_probed() -> None:
    current = has(1, i_2=server(2, "maint"))
    assert unproven(current, wanted(1, 2, 3)) == wanted(2, 3)


def test_the_servers_file_has_those_in_use_only() -> None:
    current = has(2, 1, i_3=server(3, "drain"), i_4=server(4, "maint"))
    assert rendered(current) == "    server i-1 10.0.0.1:8088\n    server i-2 10.0.0.2:8088\n"
