"""No query waits for a worker that nobody starts, and none is lost with a worker that dies.

Runs inside Superset and Celery, by their configuration alone: superset_config.py calls `setup`,
which knows all parts. `context` is what the parts share. `publish` and `run` guard a task where it
is sent and where it runs; `worker` is the heartbeat; `web` shows to clients what all parties know
of workers and jobs (superset_fleet.state). `hooks` is what works without the guard, too. The
watchdog (superset_fleet.watchdog) fails what nobody else will finish. docs/architecture.md tells
the whole.
"""
