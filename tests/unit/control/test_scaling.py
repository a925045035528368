"""`fleet scale`: what was decided of each worker group, by whom, and why."""

from typing import Any

from superset_fleet.control.scaling import by_queue, leads, shown

GROUP: dict[str, Any] = {
    "name": "superset-celery_worker",
    "queues": ["sql_lab", "charts"],
    "desired": 4,
    "wanted": 4,
    "why": "4: 37 wait, 4 run, 3.2 s each on 2 slots a machine; 10 s acceptable",
    "obstacle": "",
    "refused": "",
    "changed": {"at": 0.0, "from": 2, "to": 4, "why": "2 → 4: 37 wait, 4 run, 3.2 s each"},
}
SAID: dict[str, Any] = {
    "scaler": "vm-1",
    "silent_seconds": 1.2,
    "trouble": "",
    "hold": None,
    "groups": [GROUP],
}


def test_every_group_is_one_line_with_the_numbers_and_one_with_its_last_change() -> None:
    assert shown(SAID).splitlines() == [
        "scaler on vm-1, 1 s ago:",
        "  superset-celery_worker: 4: 37 wait, 4 run, 3.2 s each on 2 slots a machine; "
        "10 s acceptable",
        "    last change 1970-01-01T00:00:00Z: 2 → 4: 37 wait, 4 run, 3.2 s each",
    ]


def test_that_nobody_leads_is_said_plainly() -> None:
    silent, never = SAID | {"silent_seconds": 300.0}, SAID | {"silent_seconds": None, "groups": []}
    assert not leads(silent)
    assert not leads(never)
    assert "! no scaler leads, so nothing is decided" in shown(silent)
    assert "! no scaler has ever reported" in shown(never)
    assert by_queue(silent) == {}


def test_a_hold_and_trouble_are_said_before_what_they_hold() -> None:
    hold = {"reason": "upgrade", "since": "2026-11-22T19:38:54Z"}
    _, trouble, held, _, _ = shown(SAID | {"trouble": "refused", "hold": hold}).splitlines()
    assert trouble == "! no group's size is changed: refused"
    assert held == "! held since 2026-11-22T19:38:54Z: upgrade (fleet scale --release)"


def test_what_is_not_done_is_marked_where_machines_lack() -> None:
    lacks = GROUP | {"desired": 0, "wanted": 1, "obstacle": "its max is 0"}
    _, line, _ = shown(SAID | {"groups": [lacks]}).splitlines()
    assert line.startswith("! superset-celery_worker")
    assert line.endswith("; not done: its max is 0")
