"""./fleet test: what it counts, and the table that it prints last."""

import time
from pathlib import Path
from typing import Any

import pytest

from rehearsal import proof, steps, touched
from rehearsal.proof import Job, Row, Watch
from rehearsal.steps import Command

BUDGETS = {"total": 1000.0, "unit": 60.0, "redis": 30.0}


@pytest.fixture(autouse=True)
def logs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Logs of the test's own."""
    monkeypatch.setattr(steps, "LOGS", tmp_path)
    monkeypatch.setattr(proof, "LOGS", tmp_path)
    return tmp_path


def test_scenarios_begin_with_a_fleet_of_their_own_whatever_molecule_remembers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(proof, "MOLECULE", tmp_path / "molecule")
    (tmp_path / "molecule").mkdir()
    (tmp_path / "molecule/state.yml").write_text("created: true\n")
    (job,) = proof.molecule_jobs(["redis"])
    assert job.command.environment["MOLECULE_EPHEMERAL_DIRECTORY"] == str(tmp_path / "molecule")
    assert not (tmp_path / "molecule").exists()


def test_every_part_and_scenario_has_a_budget_and_no_other_name() -> None:
    known = {"total", "harness", proof.UP, proof.DOWN, *touched.PARTS, *touched.SCENARIOS}
    assert set(proof.budgets()) == known


def test_the_last_line_counts_the_tests_of_all_parts() -> None:
    rows = [Row("unit", 800, 0, 40.0), Row("redis", 9, 1, 20.0), Row("site")]
    said = proof.report(rows, 500.0, BUDGETS, whole=True).splitlines()
    assert said[-1] == "809 passed, 1 failed"
    assert said[:5] == [
        "   PART   TESTS  FAILED  SECONDS  BUDGET",
        "   unit   800    0       40       60",
        "!  redis  10     1       20       30",
        "!  site   0      0       not run  -",
        "!  total  810    1       500      1000",
    ]


def test_who_broke_a_budget_is_named_and_it_is_no_failure() -> None:
    rows = [Row("unit", 8, 0, 61.0), Row("redis", 9, 0, 30.0)]
    said = proof.report(rows, 1001.0, BUDGETS, whole=True)
    assert "unit broke its budget: 61 s, not 60" in said
    assert "redis broke" not in said
    assert "the whole run broke its budget: 1001 s, not 1000" in said
    assert said.endswith("17 passed, 0 failed")


def test_a_run_that_took_half_as_long_again_as_its_budget_is_said_loudly() -> None:
    said = proof.report([Row("unit", 8, 0, 1.0)], 1501.0, BUDGETS, whole=True)
    assert "!!! THE WHOLE RUN BROKE ITS BUDGET: 1501 S, NOT 1000 !!!" in said


def test_a_part_of_the_whole_has_no_part_in_its_budget() -> None:
    said = proof.report([Row("unit", 8, 0, 1.0)], 1501.0, BUDGETS, whole=False)
    assert "broke" not in said


def script(part: str, name: str, text: str) -> Job:
    return Job(part, Command(name, ["sh", "-c", text]))


TESTS = """
import pytest
def test_good(): pass
def test_bad(): assert False
@pytest.fixture
def broken(): raise OSError
def test_without_fixture(broken): pass
"""


def test_tests_are_counted_by_what_pytest_says(logs: Path, capsys: Any) -> None:
    (logs / "test_it.py").write_text(TESTS)
    text = f"pytest --junitxml={logs}/unit.xml --rootdir={logs} {logs}/test_it.py"
    job = script("unit", "unit", text)
    proof.run_stage([job])
    assert [(row.passed, row.failed) for row in proof.summary([job])] == [(1, 2)]
    said = capsys.readouterr().out
    assert "unit: FAILED" in said
    assert "assert False" in said


def test_a_part_that_fails_without_a_test_counts_as_a_failure() -> None:
    job = script("unit", "unit", "exit 4")
    proof.run_stage([job])
    assert [(row.passed, row.failed) for row in proof.summary([job])] == [(0, 1)]


def test_each_check_of_the_text_counts_and_all_of_them_run() -> None:
    jobs = [script("lint", "one", "exit 1"), script("lint", "two", "true")]
    proof.run_stage(jobs)
    (row,) = proof.summary(jobs)
    assert (row.name, row.passed, row.failed) == ("lint", 1, 1)


RESULT = '<testsuites><testsuite tests="3" failures="1" errors="0" skipped="0"/></testsuites>'


def molecule(*lines: str) -> Job:
    """A run of two scenarios that says these lines, and fails."""
    job = script(
        "molecule", "molecule", "\n".join([*(f"echo '{line}'" for line in lines), "exit 1"])
    )
    job.rows = [Row(proof.UP), Row("redis"), Row("site"), Row(proof.DOWN)]
    return job


def test_scenarios_have_rows_of_their_own_and_what_was_not_run_says_so(logs: Path) -> None:
    (logs / "redis.xml").write_text(RESULT)
    job = molecule(said("default ➜ create"), said("redis ➜ verify"))
    proof.run_stage([job])
    rows = {row.name: row for row in job.rows}
    assert (rows["redis"].passed, rows["redis"].failed) == (2, 1)
    assert rows["site"].seconds is None
    assert sum(row.failed for row in job.rows) == 1


def said(what: str) -> str:
    return f"INFO     {what}: Executing"


def test_a_fleet_that_does_not_stand_is_the_failure_of_that_row() -> None:
    job = molecule(said("default ➜ create"))
    proof.run_stage([job])
    assert [row.name for row in job.rows if row.failed] == [proof.UP]


def test_a_scenario_that_does_not_converge_fails_though_the_fleet_is_taken_down_then() -> None:
    error = "WARNING  redis ➜ converge: An error occurred during the test sequence action"
    down = said("default ➜ destroy")
    job = molecule(said("default ➜ create"), said("redis ➜ converge"), error, down)
    proof.run_stage([job])
    assert [row.name for row in job.rows if row.failed] == ["redis"]


def test_the_time_of_a_converge_is_its_scenarios(logs: Path, monkeypatch: Any) -> None:
    clock = iter([0.0, 100.0, 130.0, 150.0])
    job = molecule()
    watch = Watch(job)
    monkeypatch.setattr(time, "monotonic", lambda: next(clock))
    with (logs / "molecule.log").open("w") as log:
        for line in ("default ➜ create", "redis ➜ converge", "redis ➜ verify", "default ➜ destroy"):
            print(said(line), file=log, flush=True)
            watch.look()
    seconds = {row.name: row.seconds for row in job.rows}
    assert seconds == {proof.UP: 100.0, "redis": 50.0, "site": None, proof.DOWN: 0.0}
