"""A cloud that starts workers: moto's auto-scaling API, and processes for its instances."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from random import Random
from typing import Any

from superset_fleet.state.jobs import QUERY_QUEUES
from superset_fleet.state.records import Wake
from tests.harness.rig import SLOTS, TIMES, Fleet
from tests.harness.spawner import Process
from tests.support.aws_server import Aws, make_worker_group
from tests.support.waiting import until

LOOK_SECONDS = 0.1


class Cloud:
    """One worker group of at most two machines, and scalers for it."""

    name = "superset-celery_worker"

    def __init__(self, aws: Aws, subnet: str, metadata: str, config: Path, fleet: Fleet) -> None:
        self._api = aws.client("autoscaling")
        self._fleet, self._metadata, self._config = fleet, metadata, config
        make_worker_group(aws, subnet, self.name, desired=0, high=2, tags={})
        self._over = threading.Event()
        self.boot_seconds: Callable[[], float] = lambda: 0.0
        self._due: dict[str, float] = {}
        self._thread = threading.Thread(target=self._run_machines)
        self._thread.start()

    def close(self) -> None:
        """End it."""
        self._over.set()
        self._thread.join()
        self._api.delete_auto_scaling_group(AutoScalingGroupName=self.name, ForceDelete=True)

    def resize(self, **sizes: int) -> None:
        """Set the group's sizes, in the API's words."""
        self._api.update_auto_scaling_group(AutoScalingGroupName=self.name, **sizes)

    def _told(self) -> Any:
        answer = self._api.describe_auto_scaling_groups(AutoScalingGroupNames=[self.name])
        return answer["AutoScalingGroups"][0]

    @property
    def desired(self) -> int:
        """How many machines the group is to have."""
        return int(self._told()["DesiredCapacity"])

    def members(self) -> list[str]:
        """Return the ids of the group's machines."""
        return sorted(one["InstanceId"] for one in self._told()["Instances"])

    def terminate(self, machine: str) -> None:
        """Let a machine be gone, in whose place the group starts another one."""
        self._fleet.workers[machine].cut_power()
        self._api.terminate_instance_in_auto_scaling_group(
            InstanceId=machine, ShouldDecrementDesiredCapacity=False
        )

    def _run_machines(self) -> None:
        """Let each member have a worker, some time after it was launched."""
        while not self._over.wait(LOOK_SECONDS):
            members = self.members()
            for name in members:
                due = self._due.setdefault(name, time.monotonic() + self.boot_seconds())
                if name not in self._fleet.workers and time.monotonic() >= due:
                    self._fleet.start_worker(name, cloud=(name, self.name), wait=False)
            for name in self._fleet.workers.keys() - set(members):
                self._fleet.workers[name].stop()

    # -- Scalers ----------------------------------------------------------------------------------
    def start_scaler(self) -> Process:
        """Start one."""
        arguments = ["--slots", str(SLOTS), "--visibility-timeout", "4560"]
        arguments += ["--acceptable-wait", "2", "--cooldown", "12"]
        return self._fleet.start_daemon(
            "superset_fleet.scaler.daemon:main",
            arguments,
            {
                "FLEET_INSTANCE": "i-scheduler",
                "AWS_EC2_METADATA_SERVICE_ENDPOINT": self._metadata,
                "CREDENTIALS_DIRECTORY": str(self._config.parent),
            },
        )

    def word(self, queue: str = "sql_lab") -> Wake | None:
        """Return what the scaler says of a queue."""
        said: Wake | None = self._fleet.registry.queue(queue).wake
        return said

    def says(self, state: str) -> Wake:
        """Wait until the scaler says that of all queues."""

        def said() -> bool:
            words = [self.word(queue) for queue in QUERY_QUEUES]
            return all(word is not None and word.state == state for word in words)

        until(said, f"the scaler says {state}")
        word = self.word()
        assert word
        return word

    def newcomer(self) -> str:
        """Wait for the worker that was woken, and return its machine."""
        until(lambda: self._fleet.takers(), "a worker was woken")
        (name,) = self._fleet.takers()
        return str(name)


def boots(dice: Random) -> Callable[[], float]:
    """Return how long machines take to boot."""
    return lambda: dice.uniform(0, TIMES.silent_seconds)


@contextmanager
def opened(cloud: Cloud) -> Iterator[Cloud]:
    """Close it in the end."""
    try:
        yield cloud
    finally:
        cloud.close()
