"""What superset_schema would do: states in, steps out; and how it reads migrations."""

import pytest
from superset_schema import State, plan

from superset_fleet.guard.migrations import SchemaError, revisions

EMPTY = State(revision=None, init=None, admin=None)
WANTED = State(revision="c", init="6.1.0 0123", admin="admin")


@pytest.mark.parametrize(
    ("current", "steps"),
    [
        (EMPTY, ["migrate", "init", "admin"]),
        (WANTED, []),
        (State("b", WANTED.init, "admin"), ["migrate", "init"]),
        (State("c", "6.0.0 0123", "admin"), ["init"]),
        (State("c", WANTED.init, None), ["admin"]),
    ],
)
def test_only_what_differs_is_done(current: State, steps: list[str]) -> None:
    assert plan(current, WANTED) == steps


def migration(revision: str, down_revision: object) -> str:
    return f'"""title"""\n\nrevision = "{revision}"\ndown_revision = {down_revision!r}\n'


def test_the_head_is_what_nothing_follows() -> None:
    scripts = {
        "a.py": migration("a", None),
        "b.py": migration("b", "a"),
        "c.py": migration("c", "a"),
        "merge.py": migration("d", ("b", "c")) + "branch_labels = None\n",
    }
    assert revisions(scripts) == ("d", {"a", "b", "c", "d"})


def test_annotations_and_comments_of_newer_templates_are_understood() -> None:
    script = 'revision: str = "b"  # this one\ndown_revision: str | None = "a"\n'
    assert revisions({"a.py": migration("a", None), "b.py": script})[0] == "b"


def test_two_heads_are_refused() -> None:
    scripts = {"a.py": migration("a", None), "b.py": migration("b", None)}
    with pytest.raises(SchemaError, match="2 migration heads"):
        revisions(scripts)


def test_a_file_without_a_revision_is_named() -> None:
    with pytest.raises(SchemaError, match="odd"):
        revisions({"odd.py": "pass\n"})
