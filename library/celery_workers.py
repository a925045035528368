#!/usr/bin/python
"""Tell which Celery workers take tasks from which queues, and wait until there are enough."""

from __future__ import annotations

DOCUMENTATION = r"""
module: celery_workers
short_description: Tell which Celery workers take tasks, and wait until there are enough
description:
  - Reads what the guard's workers say of themselves once a second in Redis.
  - With O(min), waits until so many workers take tasks from each of O(queues), and fails where
    there are fewer after O(timeout). The message names each queue that lacks workers.
  - A worker that has been silent for six seconds, or is draining or stuck, takes no tasks.
  - Changes nothing, so it runs in check mode too.
requirements: [redis]
options:
  redis:
    description: The Redis instance C(coordination).
    type: dict
    required: true
    suboptions:
      host:
        description: Address.
        type: str
        required: true
      port:
        description: TCP port.
        type: int
        required: true
      password:
        description: Password.
        type: str
        required: true
  queues:
    description: Names of queues. When empty, all that ever had a worker.
    type: list
    elements: str
    default: []
  min:
    description: How many workers must take tasks from each of O(queues).
    type: int
    default: 0
  hosts:
    description: Host names of machines, each of which must have a worker that takes tasks.
    type: list
    elements: str
    default: []
  timeout:
    description: Seconds to wait for them.
    type: int
    default: 60
author:
  - The superset-fleet project
"""

EXAMPLES = r"""
- name: Wait until two workers take tasks from each of these queues
  celery_workers:
    redis: "{{ superset_facts.redis.coordination }}"
    queues: [sql_lab, charts]
    min: 2
  vars:
    ansible_python_interpreter: /opt/superset/venv/bin/python
"""

RETURN = r"""
workers:
  description: All workers that beat within the last hour and did not say good-bye, by name.
  returned: success
  type: list
  elements: dict
  contains:
    name:
      description: Name of this life of the worker.
      type: str
      sample: worker@ip-10-80-4-7#1a2b3c4d
    host:
      description: Host name of its machine.
      type: str
      sample: ip-10-80-4-7
    queues:
      description: Queues that it takes tasks from, or did before it was draining.
      type: list
      elements: str
      sample: [sql_lab, charts]
    slots:
      description: Tasks that it can run at a time.
      type: int
      sample: 2
    tasks:
      description: Tasks that it runs, those without a job too.
      type: int
      sample: 1
    taken:
      description:
        - How many tasks it has taken and not finished, by queue; one that does not run yet is among
          them.
      type: dict
      sample: {"sql_lab": 1}
    jobs:
      description:
        - The queries and charts that it runs, each with C(job) (C(query:) and the id of the query,
          or C(chart:) and Superset's id of the job) and C(seconds), since it began.
        - The seconds are null for one that has only just begun.
      type: list
      elements: dict
      sample: [{"job": "query:17", "seconds": 12.3}]
    draining:
      description: Whether it takes no more tasks and finishes those that it runs.
      type: bool
    stuck_seconds:
      description: For how long its event loop, which takes tasks, has not turned; 0 if it turns.
      type: float
      sample: 0.0
    since:
      description: When it began, in UTC.
      type: str
      sample: "2026-11-22T19:38:54Z"
    silent_seconds:
      description: Since its last beat.
      type: float
      sample: 0.4
    silent:
      description: Whether that is so long that it is taken for dead.
      type: bool
queues:
  description: The queues, by name.
  returned: success
  type: list
  elements: dict
  contains:
    name:
      description: Name of the queue.
      type: str
      sample: sql_lab
    workers:
      description: Workers that take tasks from it.
      type: int
      sample: 2
    slots:
      description: Tasks that these can run at a time.
      type: int
      sample: 4
    waiting:
      description: Tasks that no worker has taken yet.
      type: int
      sample: 0
    taken:
      description: Tasks that workers have taken and not finished.
      type: int
      sample: 3
    silent_seconds:
      description: Since a worker was heard; null where there never was one.
      type: float
      sample: 0.4
scaling:
  description: What the leading scaler said last.
  returned: success
  type: dict
  contains:
    scaler:
      description: Host name of the machine on which it runs; empty where none ever said anything.
      type: str
      sample: ip-10-80-0-12
    silent_seconds:
      description: Since it said so; null where none ever did. It does every two seconds.
      type: float
      sample: 1.2
    trouble:
      description: Why it changes nothing at the moment; empty where all is well.
      type: str
    hold:
      description: Why all groups are held, and since when, in UTC; null where they are not.
      type: dict
      sample: {"reason": "upgrade", "since": "2026-11-22T19:38:54Z"}
    groups:
      description: The worker groups, each with the numbers that were decided from, and why.
      type: list
      elements: dict
"""

import time
from collections.abc import Iterable
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Any

import redis
from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.superset_fleet.state.broker import waiting
from ansible.module_utils.superset_fleet.state.facts import BROKER, GUARD, redis_url
from ansible.module_utils.superset_fleet.state.records import Report
from ansible.module_utils.superset_fleet.state.registry import EVERY_GROUP, Registry
from ansible.module_utils.superset_fleet.state.words import since
from ansible.module_utils.superset_fleet.times import TIMES

LOOK_SECONDS = 0.5  # between two looks while waiting


def workers(registry: Registry) -> list[dict[str, Any]]:
    """Return what all workers say of themselves."""
    now, runs = registry.now(), registry.runs()
    found = []
    for name, worker in sorted(registry.workers().items()):
        silent_seconds = max(0.0, round(now - worker.last_beat, 1))
        jobs = [
            {"job": job, "seconds": max(0.0, round(now - run.at, 1)) if run else None}
            for job in worker.active
            for run in [runs.get(job)]
        ]
        found.append(
            {
                "name": name,
                "host": worker.host,
                "queues": worker.queues,
                "slots": worker.slots,
                "tasks": worker.tasks,
                "taken": worker.taken,
                "jobs": jobs,
                "draining": worker.draining,
                "stuck_seconds": worker.stuck_seconds,
                "since": utc(worker.since),
                "silent_seconds": silent_seconds,
                "silent": silent_seconds > TIMES.silent_seconds,
            }
        )
    return found


def takes(worker: dict[str, Any]) -> bool:
    """Return whether a worker takes tasks."""
    return not (worker["draining"] or worker["stuck_seconds"] or worker["silent"])


def queues(
    registry: Registry, broker: Any, names: Iterable[str], known: list[dict[str, Any]]
) -> list[dict[str, Any]]:
    """Return the state of queues, given what all workers say."""
    found = []
    for name, length in waiting(broker, names).items():
        queue = registry.queue(name)
        taking = [worker for worker in known if name in worker["queues"] and takes(worker)]
        found.append(
            {
                "name": name,
                "workers": queue.workers,
                "slots": sum(worker["slots"] for worker in taking),
                "waiting": length,
                "taken": sum(
                    worker["taken"].get(name, 0) for worker in known if not worker["silent"]
                ),
                "silent_seconds": queue.silent_seconds,
            }
        )
    return found


def look(registry: Registry, broker: Any, names: Iterable[str]) -> dict[str, Any]:
    """Return workers and queues."""
    known = workers(registry)
    return {
        "workers": known,
        "queues": queues(registry, broker, names or registry.queues(), known),
        "scaling": scaling(registry),
    }


def scaling(registry: Registry) -> dict[str, Any]:
    """Return what the leading scaler decided, and whether somebody holds it."""
    now, hold = registry.now(), registry.held().get(EVERY_GROUP)
    report = registry.reported()
    return {
        **asdict(report or Report()),
        "silent_seconds": round(max(0.0, now - report.at), 1) if report else None,
        "hold": {"reason": hold.reason, "since": utc(hold.at)} if hold else None,
    }


def utc(seconds: float) -> str:
    """Return a time of Redis as it is written everywhere here."""
    return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%dT%H:%M:%SZ}"


def lacking(state: dict[str, Any], least: int, hosts: Iterable[str] = ()) -> list[str]:
    """Return in words which queues have fewer workers than the least number, which hosts none."""
    taking = {worker["host"] for worker in state["workers"] if takes(worker)}
    return [f"{host} has no worker that takes tasks" for host in hosts if host not in taking] + [
        f"queue {queue['name']} has {queue['workers']} of {least} workers"
        + (f" ({since(queue['silent_seconds'])})" if not queue["workers"] else "")
        for queue in state["queues"]
        if queue["workers"] < least
    ]


def known_ones(state: dict[str, Any]) -> str:
    """Return in words which workers there are."""
    said = [
        worker["name"]
        + " (draining)" * worker["draining"]
        + f" (stuck for {worker['stuck_seconds']:.0f} s)" * bool(worker["stuck_seconds"])
        + f" (silent for {worker['silent_seconds']:.0f} s)" * worker["silent"]
        for worker in state["workers"]
    ]
    return ", ".join(said) or "none"


def wait(
    registry: Registry,
    broker: Any,
    names: list[str],
    least: int,
    timeout: float,
    hosts: Iterable[str] = (),
) -> tuple[dict[str, Any], str]:
    """Return workers and queues, and what is still wrong when the time is over, or ''."""
    deadline = time.monotonic() + timeout
    while True:
        state = look(registry, broker, names)
        missing = lacking(state, least, hosts)
        if not missing:
            return state, ""
        if time.monotonic() >= deadline:
            return state, (
                f"after {timeout:.0f} s {'; '.join(missing)}. Workers that there are:"
                f" {known_ones(state)}. Look on each machine of the group celery_worker: systemctl"
                " status celery-worker, journalctl --unit celery-worker"
            )
        time.sleep(LOOK_SECONDS)


def main() -> None:
    """Run the module."""
    module = AnsibleModule(
        argument_spec={
            "redis": {
                "type": "dict",
                "required": True,
                "options": {
                    "host": {"type": "str", "required": True},
                    "port": {"type": "int", "required": True},
                    "password": {"type": "str", "required": True, "no_log": True},
                },
            },
            "queues": {"type": "list", "elements": "str", "default": []},
            "min": {"type": "int", "default": 0},
            "hosts": {"type": "list", "elements": "str", "default": []},
            "timeout": {"type": "int", "default": 60},
        },
        supports_check_mode=True,
    )
    given = module.params
    server = given["redis"]
    registry = Registry(redis_url(server, GUARD), timeout_seconds=5)
    broker = redis.Redis.from_url(
        redis_url(server, BROKER), socket_timeout=5, socket_connect_timeout=5
    )
    try:
        wanted = (given["queues"], given["min"], given["timeout"], given["hosts"])
        state, problem = wait(registry, broker, *wanted)
    except redis.RedisError as error:
        module.fail_json(
            msg=f"Redis coordination at {server['host']}:{server['port']} does not answer"
            f" ({error}): systemctl status redis-server@coordination there"
        )
    if problem:
        module.fail_json(msg=problem, **state)
    module.exit_json(changed=False, **state)


if __name__ == "__main__":
    main()
