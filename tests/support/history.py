"""What became of queries, written down by the metadata database itself at every change of a row.

So a query that is finished twice is seen, however short the moment between.
"""

from __future__ import annotations

from typing import NamedTuple

ENDED = {"success", "failed", "stopped", "timed_out"}
DROP = "drop schema if exists ledger cascade;"
CREATE = """
create schema ledger;
create table ledger.changes (
  number bigint generated always as identity,
  at double precision default extract(epoch from clock_timestamp()),
  query_id integer, client_id text, before text, after text, run numeric
);
create index on ledger.changes (query_id);
-- As its owner: Superset's own user may not write here.
create function ledger.note() returns trigger language plpgsql security definer as $$
begin
  if tg_op = 'INSERT' then
    insert into ledger.changes (query_id, client_id, before, after)
    values (new.id, new.client_id, '', new.status);
  elsif (old.status, old.results_key, old.error_message, old.start_running_time)
     is distinct from (new.status, new.results_key, new.error_message, new.start_running_time)
  then
    insert into ledger.changes (query_id, client_id, before, after, run)
    values (new.id, new.client_id, old.status, new.status, new.start_running_time);
  end if;
  return null;
end $$;
create trigger ledger after insert or update on public.query
for each row execute function ledger.note();
"""


class Change(NamedTuple):
    """One change of a query's row."""

    at: float  # seconds since 1970
    query_id: int
    client_id: str
    before: str
    after: str
    run: float | None


class History(list[Change]):
    """What became of one query."""

    @property
    def ends(self) -> list[Change]:
        """The changes that ended it, and those of its end: one in all, if all is well."""
        return [each for each in self if each.after in ENDED or each.before in ENDED]

    def ended_once(self, stopped: bool) -> bool:
        """Return whether it ended once.

        Superset stops a query in the database first: there its worker may meet the error, and
        fail it, a moment before Superset writes down that its user stopped it.
        """
        ends = [(each.before, each.after) for each in self.ends]
        race = [("running", "failed"), ("failed", "stopped")]
        return len(ends) == 1 or (stopped and ends == race)

    @property
    def runs(self) -> list[Change]:
        """The changes with which it began to run."""
        return [each for each in self if each.after == "running" != each.before]

    @property
    def status(self) -> str:
        """How it is."""
        return self[-1].after if self else "never sent"
