"""A query's job, its runs, and what the scaler says of a queue: examples."""

from dataclasses import replace

from superset_fleet.state.records import Job, Run, Wake

JOB = Job(task="sql_lab.get_sql_results", task_id="t", queue="sql_lab", at=1000.0)
READS, WRITES = (Run("worker@vm#1", "7", read_only=each, at=1000.0) for each in (True, False))
STARTING = Wake("fleet-celery_worker", "starting", 1784800000.0, desired=1, why="1 waits")
READY = replace(STARTING, state="ready", since=0.0)
CANNOT = replace(READY, state="cannot", why="its largest size is 0")
