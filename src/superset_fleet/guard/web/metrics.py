"""What is known of queues and of dependencies, in Prometheus' text format."""

from __future__ import annotations

from collections.abc import Mapping

from .queues import State

PROMETHEUS = "text/plain; version=0.0.4; charset=utf-8"
METRICS = {
    "workers": ("workers", "Workers that take tasks from the queue."),
    "workers_draining": ("draining", "Workers that take no more and finish what they run."),
    "slots": ("slots", "Tasks that the queue's workers can run at a time."),
    "tasks_active": ("active", "Tasks that run on the queue's workers."),
    "queue_length": ("waiting", "Tasks that wait in the broker."),
    "queue_silent_seconds": ("silent_seconds", "Seconds since a worker of the queue was heard."),
    "queue_wakes": ("wakes", "Whether a worker is started for what waits in the queue."),
    "worker_starting_seconds": ("starting_seconds", "Seconds since a first worker was asked for."),
}


def metrics(state: State | None, dependencies: Mapping[str, bool]) -> str:
    """Return in Prometheus' text format which dependencies answer, and the state where known."""
    lines = head("dependency_up", "gauge", "Whether what a web machine depends on answers it.")
    for name, answers in dependencies.items():
        lines.append(f'superset_fleet_dependency_up{{dependency="{escape(name)}"}} {answers:d}')
    return "\n".join([*lines, *(metrics_of_queues(state) if state else []), ""])


def metrics_of_queues(state: State) -> list[str]:
    """Return the lines about queues, their workers and what the watchdog decided."""
    lines = []
    for metric, (attribute, meaning) in METRICS.items():
        lines += head(metric, "gauge", meaning)
        for name, queue in state.queues.items():
            value = getattr(queue, attribute)
            if value is not None:  # and of a truth value 0 or 1
                lines.append(f'superset_fleet_{metric}{{queue="{escape(name)}"}} {+value}')
    lines += head("decisions_total", "counter", "What the watchdog decided about jobs.")
    for name, number in sorted(state.decisions.items()):
        lines.append(f'superset_fleet_decisions_total{{decision="{escape(name)}"}} {number}')
    return lines


def head(metric: str, kind: str, meaning: str) -> list[str]:
    """Return the lines that introduce a metric."""
    name = f"superset_fleet_{metric}"
    return [f"# HELP {name} {meaning}", f"# TYPE {name} {kind}"]


def escape(value: str) -> str:
    """Return a label's value as it stands between quotes."""
    return value.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")
