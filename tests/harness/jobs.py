"""Jobs of every kind that run until they are let go, and what is to become of them."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import Any

from superset_fleet.state.records import Run
from tests.harness.rig import Fleet, Query
from tests.support.waiting import until

NOT_AGAIN = "not run again"
READING = ("select", "chart")
WRITING = ("insert", "script", "made")
KINDS = READING + WRITING
numbers = itertools.count(1)


@dataclass
class Job:
    """A query or a chart. Its first run gives the number 1, a run after `fleet.number` another."""

    fleet: Fleet
    kind: str
    name: str  # of what it waits for
    query: Query | None = None
    chart: str = ""

    @property
    def id(self) -> str:
        """Its name in the registry."""
        return self.query.job if self.query else f"chart:{self.chart}"

    @property
    def reads(self) -> bool:
        """Whether it changes nothing."""
        return self.kind in READING

    def succeeds(self, number: int, runs: int) -> None:
        """Hold that it succeeds with what its last run gives."""
        if self.query is None:
            event = self.fleet.wait_for_chart(self.chart)
            assert event["status"] == "done", event
            assert self.fleet.chart_rows(event) == [[number]]
            return
        self.fleet.wait([self.query])
        assert self.query.status == "success", self.query
        assert self.fleet.runs(self.query) == runs
        if self.kind in ("select", "script"):
            assert self.fleet.rows(self.query) == [[number]]
        if self.kind in ("insert", "script"):
            assert self.fleet.written()[self.name] == 1
        if self.kind == "made":
            made = self.fleet.base.postgres.sql("warehouse", f'select number from "{self.name}"')
            assert made == [(number,)]

    def is_given_up(self) -> None:
        """Hold that it fails, and was not run again, because it may have changed data."""
        assert self.query
        self.fleet.wait([self.query])
        assert self.query.status == "failed", self.query
        assert NOT_AGAIN in self.query.error
        assert self.fleet.runs(self.query) == 1

    def runs(self) -> Run:
        """Wait until it runs, and waits to be let go; return who runs it."""
        run: Run = self.fleet.run(self.id)
        until(lambda: self.fleet.waits(self.name), f"{self.name} has its number")
        return run

    def is_run_again(self, first: Run) -> Run:
        """Wait until another run has it, and return that."""

        def again() -> Run | None:
            run = self.fleet.registry.run(self.id)
            return run if run != first else None

        run: Run = until(again, f"{self.id} is run again")
        return run


def send(fleet: Fleet, kind: str, **options: Any) -> Job:
    """Send a job of a kind."""
    name = f"{kind}_{next(numbers)}"
    held = fleet.held(name)
    if kind == "chart":
        return Job(fleet, kind, name, chart=fleet.ask_chart(f"{held} as number"))
    sql = f"select {held} as number"
    if kind == "insert":
        sql = f"insert into written select '{name}', {held}"
    if kind == "script":
        sql = f"insert into written select '{name}', 0; {sql}"
    if kind == "made":
        options |= {"select_as_cta": True, "tmp_table_name": name}
    return Job(fleet, kind, name, query=fleet.send(sql, **options))
