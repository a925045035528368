"""`fleet scale`: what was decided of each worker group, by whom, and why."""

from dataclasses import replace

from superset_fleet.control.scaling import Scaling, by_queue, shown
from superset_fleet.state.records import GroupReport, Report, Resize

GROUP = GroupReport(
    "superset-celery_worker",
    ["sql_lab", "charts"],
    desired=4,
    wanted=4,
    why="4: 37 wait, 4 run, 3.2 s each on 2 slots a machine; 10 s acceptable",
    changed=Resize(0.0, 2, 4, "2 → 4: 37 wait, 4 run, 3.2 s each"),
)
SAID = Scaling(Report("vm-1", groups=[GROUP]), 1.2)


def test_every_group_is_one_line_with_the_numbers_and_one_with_its_last_change() -> None:
    assert shown(SAID).splitlines() == [
        "scaler on vm-1, 1 s ago:",
        "  superset-celery_worker: 4: 37 wait, 4 run, 3.2 s each on 2 slots a machine; "
        "10 s acceptable",
        "    last change 1970-01-01T00:00:00Z: 2 → 4: 37 wait, 4 run, 3.2 s each",
    ]


def test_that_nobody_leads_is_said_plainly() -> None:
    silent, never = Scaling(SAID.report, 300.0), Scaling(Report(), None)
    assert not silent.leads
    assert not never.leads
    assert "! no scaler leads, so nothing is decided" in shown(silent)
    assert "! no scaler has ever reported" in shown(never)
    assert by_queue(silent) == {}


def test_a_hold_and_trouble_are_said_before_what_they_hold() -> None:
    hold = {"reason": "upgrade", "since": "2026-11-22T19:38:54Z"}
    said = Scaling(replace(SAID.report, trouble="refused"), 1.2, hold)
    _, trouble, held, _, _ = shown(said).splitlines()
    assert trouble == "! no group's size is changed: refused"
    assert held == "! held since 2026-11-22T19:38:54Z: upgrade (fleet scale --release)"


def test_what_is_not_done_is_marked_where_machines_lack() -> None:
    lacks = replace(GROUP, desired=0, wanted=1, obstacle="its max is 0")
    _, line, _ = shown(Scaling(Report("vm-1", groups=[lacks]), 1.2)).splitlines()
    assert line.startswith("! superset-celery_worker")
    assert line.endswith("; not done: its max is 0")
