"""parameters: passwords are made once, and no value is ever shown."""

from parameters import outcome, plan

from superset_fleet.control.convergence import Step


def told(steps: list[Step]) -> list[str]:
    return list(map(str, steps))


def test_a_password_is_made_where_there_is_none_and_never_changed() -> None:
    assert told(plan({}, ["redis"], {}, [])) == ["make redis"]
    assert plan({"redis": "whatever"}, ["redis"], {}, []) == []


def test_a_value_is_stored_where_it_is_another_one() -> None:
    assert told(plan({}, [], {"certificate": "new"}, [])) == ["store certificate"]
    assert told(plan({"certificate": "old"}, [], {"certificate": "new"}, [])) == [
        "change certificate"
    ]
    assert plan({"certificate": "new"}, [], {"certificate": "new"}, []) == []


def test_what_is_not_to_be_there_is_removed_where_it_is() -> None:
    assert told(plan({"web": "facts"}, [], {}, ["web", "worker"])) == ["remove web"]


def test_others_are_left_alone() -> None:
    assert plan({"other": "1"}, [], {}, []) == []


def test_neither_steps_nor_the_outcome_tell_a_value() -> None:
    steps = plan({"a": "old", "b": "gone"}, ["c"], {"a": "secret", "d": "secret"}, ["b"])
    assert "secret" not in repr(steps)
    assert outcome({"a": "old", "b": "gone"}, steps) == ["a (another value)", "c", "d"]
