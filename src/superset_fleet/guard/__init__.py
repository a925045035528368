"""No query waits for a worker that nobody starts, and none is lost with a worker that dies.

Runs inside Superset and Celery, by their configuration alone (superset_config.py):

    guard = Guard(redis_url=..., wake=False)
    CeleryConfig.task_annotations = guard.annotations({...})
    FLASK_APP_MUTATOR = guard.install

`setup` is that class; `registry` is what all parties know of workers and jobs, in Redis;
`rows` is what they do to Superset's table `query`; `publish` and `run` guard a task where it is
sent and where it runs; `worker` is the heartbeat; `web` shows all that to clients. The watchdog
(superset_fleet.watchdog) ends what nobody else will end. docs/architecture.md tells the whole.
"""
