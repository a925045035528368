"""./fleet test: runs the parts of the proof, and prints a table of tests and seconds."""

from __future__ import annotations

import re
import shutil
import sys
import time
import tomllib
import xml.etree.ElementTree as xml
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from rehearsal import local, touched
from rehearsal.steps import (
    COLOUR,
    LOGS,
    LOOK_SECONDS,
    ROOT,
    STATE,
    Command,
    Failed,
    Running,
    Screen,
    Step,
    duration,
    run,
    shown,
    stopped_at_last,
)
from rehearsal.touched import SCENARIOS
from superset_fleet.control.tables import columns

BUDGETS = ROOT / "tests/budgets.toml"
MOLECULE = STATE / "molecule"  # its state, of one run
UP, DOWN = "fleet up", "fleet down"  # rows of what all scenarios share
LOUD = 1.5  # times its budget that a whole run may take before that is said loudly
# Molecule's log: what it begins to do for a scenario.
ACTION = re.compile(r"^INFO +(\S+) ➜ (\w+): Executing$")
BROKEN = "An error occurred during the"  # what it says before it destroys what all share
LINT = {
    "yamllint": ["yamllint", "."],
    "ruff-check": ["ruff", "check", "."],
    "ruff-format": ["ruff", "format", "--check", "."],
    "mypy": ["mypy"],
    "ansible-lint": ["ansible-lint"],
}
PACKAGES = {  # Debian's, of each part
    "unit": ["redis-tools", "haproxy"],
    "harness": ["redis-tools", "haproxy", "libfaketime", "postgresql"],
    "molecule": ["chromium"],  # sees the pages as a user does
}
MACHINES = ("cloud", "molecule")  # parts that need root, and what `up` installs
# Processes of a part's tests. Those of the harness wait more than they work.
SPREAD = {
    "unit": ["--numprocesses", "2", "--dist", "worksteal"],
    "harness": ["--numprocesses", "4", "--dist", "worksteal"],
}
LOW = ["nice", "-n", "19"]  # scenarios wait more than they work; what runs beside takes the rest


@dataclass
class Row:
    """Of the table: a part, or a scenario."""

    name: str
    passed: int = 0
    failed: int = 0
    seconds: float | None = None  # None: it did not finish


@dataclass
class Job:
    """One command of the proof, and what came out of it."""

    part: str
    command: Command
    rows: list[Row] = field(default_factory=list)
    running: Running | None = None


def names() -> list[str]:
    """Return what can be run by itself."""
    return [*parts(), "molecule", *SCENARIOS]


def parts() -> list[str]:
    """Return the parts besides the scenarios."""
    return [part for part in touched.PARTS if part != "harness" or has_harness()]


def has_harness() -> bool:
    return (ROOT / "tests/harness").is_dir()


def prove(chosen: Sequence[str], base: str | None) -> int:
    """Run what was chosen by name, or can be touched by a change since `base`, or everything.

    Returns 0 when all passed. Raises Failed when it cannot begin.
    """
    wanted = selection(chosen, base)
    if not wanted:
        print("nothing changed\n0 passed, 0 failed")
        return 0
    began = time.monotonic()
    scenarios = [name for name in SCENARIOS if name in wanted]
    prepare([*wanted, *(["molecule"] if scenarios else [])])
    # What fails fast comes first. The harness counts in tenths of a second, so it is alone.
    stages = [
        [*lint_jobs(wanted), *pytest_jobs("unit", [*SPREAD["unit"], "tests/unit"], wanted)],
        pytest_jobs("harness", [*SPREAD["harness"], "tests/harness"], wanted),
        [
            *molecule_jobs(scenarios),
            *pytest_jobs("cloud", ["tests/localcloud"], wanted, LOW if scenarios else []),
        ],
    ]
    rows: list[Row] = []
    for stage in stages:
        run_stage(stage)
        rows += summary(stage)
        if any(row.failed for row in rows):
            break
    done = {row.name for row in rows}
    rows += [Row(name) for name in wanted if name not in done]
    whole = not chosen and base is None
    print(report(rows, time.monotonic() - began, budgets(), whole), flush=True)
    return 1 if any(row.failed or row.seconds is None for row in rows) else 0


def selection(chosen: Sequence[str], base: str | None) -> list[str]:
    """Return the names of parts and scenarios to run, and say why. Raises Failed."""
    if unknown := sorted(set(chosen) - set(names())):
        raise Failed(f"no such part: {', '.join(unknown)} (there are {', '.join(names())})")
    everything = [*parts(), *SCENARIOS]
    if base is not None:
        try:
            paths = touched.changed(base)
        except ValueError as error:
            raise Failed(str(error)) from None
        wanted, why = touched.select(paths)
        print("\n".join([f"Changed since {base}, and what that can have touched:", *why]))
        everything = [name for name in everything if name in wanted]
    if chosen:
        named = {*chosen, *(SCENARIOS if "molecule" in chosen else ())}
        everything = [name for name in everything if name in named]
    if base is not None:
        print(f"So these run: {', '.join(everything) or 'none'}", flush=True)
    return everything


def prepare(wanted: Iterable[str]) -> None:
    """Install what is missing, before anything asks for packages at the same time."""
    packages = [package for part in wanted for package in PACKAGES.get(part, [])]
    if set(wanted) & set(MACHINES):
        local.local_machine("test")
        packages += local.PACKAGES
    steps = []
    if packages and Path("/etc/debian_version").exists():
        words = ["rehearsal/packages", *dict.fromkeys(packages)]
        steps.append(Step("Packages of the tests", [Command("packages-test", words)]))
    if set(wanted) & set(MACHINES):  # the fleet and the clouds of tests begin with the same image
        steps.append(Step("Base image", [Command("image-test", [*local.LOCALCLOUD, "image"])]))
    if steps:
        run(steps)


def lint_jobs(wanted: Iterable[str]) -> list[Job]:
    """Return the checks of the text, each of which counts as a test."""
    if "lint" not in wanted:
        return []
    return [Job("lint", Command(name, words)) for name, words in LINT.items()]


def pytest_jobs(
    part: str, arguments: Sequence[str], wanted: Iterable[str], before: Sequence[str] = ()
) -> list[Job]:
    """Return the tests of a part, by pytest with these arguments."""
    if part not in wanted:
        return []
    words = [*before, "pytest", f"--junitxml={result(part)}", "--durations=20", *arguments]
    result(part).unlink(missing_ok=True)
    return [Job(part, Command(part, words))]


def molecule_jobs(scenarios: Sequence[str]) -> list[Job]:
    """Return the scenarios, which are one job: they share a fleet."""
    if not scenarios:
        return []
    for name in scenarios:
        result(name).unlink(missing_ok=True)
    # Molecule keeps its state by the name of the checkout: another checkout of that name, or a run
    # that was killed, can make it believe that the fleet stands.
    shutil.rmtree(MOLECULE, ignore_errors=True)
    state = {"MOLECULE_EPHEMERAL_DIRECTORY": str(MOLECULE)}
    # Not --all, which makes a scenario of `default`, too, and goes by the alphabet.
    words = ["molecule", "test", *(word for name in scenarios for word in ("-s", name))]
    job = Job("molecule", Command("molecule", words, state, inner=LOGS / "up.log"))
    job.rows = [Row(UP), *map(Row, scenarios), Row(DOWN)]
    return [job]


def result(name: str) -> Path:
    """Return the path of what pytest says of a part or a scenario."""
    return LOGS / f"{name}.xml"


def run_stage(jobs: Sequence[Job]) -> None:
    """Run jobs at the same time until each has finished, and show what goes on."""
    screen = Screen(sys.stdout)
    began = time.monotonic()
    watches = {id(job): Watch(job) for job in jobs if job.part == "molecule"}
    with stopped_at_last() as running:
        for job in jobs:
            job.running = Running(job.command)
            running.append(job.running)
        left = list(jobs)
        while left:
            for job in list(left):
                assert job.running
                status = job.running.process.poll()
                if watch := watches.get(id(job)):
                    watch.look()
                if status is None:
                    continue
                left.remove(job)
                seconds = time.monotonic() - began
                judge(job, status, seconds, watch)
                said = "passed" if status == 0 else "FAILED"
                screen.line(f"{job.command.name}: {said} after {duration(seconds)}")
                if status:
                    screen.line(job.running.failure())
            if left:
                doing = " | ".join(f"{job.command.name}: {running_now(job)}" for job in left)
                screen.progress(f"{duration(time.monotonic() - began)}: {doing}")
                time.sleep(LOOK_SECONDS)


def running_now(job: Job) -> str:
    """Return what a job does now."""
    return job.running.now() if job.running else "waits"


class Watch:
    """Takes the time of each scenario from Molecule's log, as it is written."""

    def __init__(self, job: Job) -> None:
        self.job = job
        self.rows = {row.name: row for row in job.rows}
        self.read = 0
        self.row: Row | None = None  # whose time runs
        self.broken: Row | None = None
        self.since = 0.0

    def look(self) -> None:
        """Read what was added."""
        with self.job.command.log.open("rb") as log:
            log.seek(self.read)
            text = log.read()
        whole = text[: text.rfind(b"\n") + 1]
        self.read += len(whole)
        now = time.monotonic()
        if self.row:
            self.row.seconds = (self.row.seconds or 0.0) + now - self.since
        self.since = now
        for line in COLOUR.sub("", whole.decode(errors="replace")).splitlines():
            if found := ACTION.match(line.strip()):
                scenario, action = found.groups()
                shared = {"create": UP, "destroy": DOWN}.get(action, "")
                self.row = self.rows.get(shared if scenario == "default" else scenario)
                if self.row:
                    self.row.seconds = self.row.seconds or 0.0
            elif BROKEN in line:
                self.broken = self.row

    def culprit(self) -> Row:
        """Return the row in which Molecule stopped."""
        return self.broken or self.row or self.job.rows[0]


def judge(job: Job, status: int, seconds: float, watch: Watch | None) -> None:
    """Count the tests of a job that is over."""
    if job.part == "lint":
        job.rows = [Row("lint", int(status == 0), int(status != 0), seconds)]
    elif watch:
        for row in job.rows:
            if row.name in SCENARIOS:
                row.passed, row.failed = counted(result(row.name))
        if status and not any(row.failed for row in job.rows):
            watch.culprit().failed = 1  # no test, but the fleet or a converge
    else:
        passed, failed = counted(result(job.part))
        if status and not failed:
            failed = 1  # it did not come to its tests, or did not finish them
        job.rows = [Row(job.part, passed, failed, seconds)]


def counted(path: Path) -> tuple[int, int]:
    """Return how many tests passed and how many did not, by pytest's own account."""
    if not path.exists():
        return 0, 0
    suites = list(xml.parse(path).getroot().iter("testsuite"))
    tests, failures, errors, skipped = (
        sum(int(suite.get(key, "0")) for suite in suites)
        for key in ("tests", "failures", "errors", "skipped")
    )
    return tests - failures - errors - skipped, failures + errors


def summary(jobs: Iterable[Job]) -> list[Row]:
    """Return the rows of jobs; those of one name are one, and took as long as the longest."""
    rows: dict[str, Row] = {}
    for row in (row for job in jobs for row in job.rows):
        if known := rows.get(row.name):
            known.passed += row.passed
            known.failed += row.failed
            known.seconds = max(known.seconds or 0.0, row.seconds or 0.0)
        else:
            rows[row.name] = row
    return list(rows.values())


def budgets() -> dict[str, float]:
    """Return the budget of each part and scenario, and of `total`, in seconds."""
    return {name: float(value) for name, value in tomllib.loads(BUDGETS.read_text()).items()}


def report(rows: Sequence[Row], seconds: float, allowed: dict[str, float], whole: bool) -> str:
    """Return the table, who broke a budget, and the count of all tests as the last line."""

    def line(name: str, passed: int, failed: int, took: float | None) -> tuple[str, ...]:
        budget = allowed.get(name)
        over = took is not None and budget is not None and took > budget
        return (
            "!" if failed or took is None or over else "",
            name,
            str(passed + failed),
            str(failed),
            "not run" if took is None else f"{took:.0f}",
            "-" if budget is None else f"{budget:.0f}",
        )

    passed, failed = sum(row.passed for row in rows), sum(row.failed for row in rows)
    lines = [
        ("", "PART", "TESTS", "FAILED", "SECONDS", "BUDGET"),
        *(line(row.name, row.passed, row.failed, row.seconds) for row in rows),
        line("total" if whole else "in all", passed, failed, seconds),
    ]
    said = [columns(lines), "", f"Logs, with the slowest tests of each part: {shown(LOGS)}/"]
    for row in rows:
        budget = allowed.get(row.name)
        if row.seconds is not None and budget is not None and row.seconds > budget:
            said.append(f"{row.name} broke its budget: {row.seconds:.0f} s, not {budget:.0f}")
    if whole and seconds > allowed["total"]:
        text = f"the whole run broke its budget: {seconds:.0f} s, not {allowed['total']:.0f}"
        said.append(f"!!! {text.upper()} !!!" if seconds > LOUD * allowed["total"] else text)
    return "\n".join([*said, f"{passed} passed, {failed} failed"])
