"""What the watchdog sees of jobs, workers and queues, look by look."""

from dataclasses import replace
from decimal import Decimal
from typing import Any

import pytest

from superset_fleet.state.records import Queue, Wake, Worker
from superset_fleet.state.rows import Row
from superset_fleet.watchdog.sight import Case, Observed, Sight, cases, rows_without_job, silences
from tests.unit.watchdog.examples import CANNOT, JOB, READS, READY, STARTING


class Scene:
    """A watchdog's view of workers that beat once a second, without any server."""

    def __init__(self, *jobs: str) -> None:
        self.time = 5000.0
        self.observed = Observed(lambda: self.time)
        self.workers: dict[str, Worker] = {}
        self.alive: set[str] = set()
        self.sight = Sight(
            now=2000.0,
            jobs=dict.fromkeys(jobs, JOB),
            queues={"sql_lab": Queue(0, 60.0)},
            rows={17: Row("pending", None)},
        )

    def add(self, name: str, **values: Any) -> None:
        """Let a worker begin to beat."""
        self.workers[name] = Worker("vm", 1, ["sql_lab"], 2, **values)
        self.alive.add(name)

    def look(self, seconds: int, **values: Any) -> dict[str, Case]:
        """Look once a second for so long; what is given is seen from the first look on."""
        self.sight = replace(self.sight, **values)
        for _ in range(seconds):
            self.time += 1
            for name in self.alive:
                self.workers[name] = replace(self.workers[name], last_beat=self.time)
            self.sight = replace(self.sight, workers=dict(self.workers))
            self.observed.begin()
            found = {case.name: case for case in cases(self.sight, self.observed)}
        return found


RUNNING = {"rows": {17: Row("running", Decimal(7))}, "runs": {"query:17": READS}}


def test_a_worker_that_beats_has_what_it_says() -> None:
    scene = Scene("query:17")
    scene.add("worker@vm#1", active=["query:17"])
    case = scene.look(60, **RUNNING)["query:17"]
    assert case.held and case.worker == "worker@vm#1" and not case.queue_silent


def test_a_job_has_been_an_orphan_since_the_last_beat_of_its_worker() -> None:
    scene = Scene("query:17")
    scene.add("worker@vm#1", active=["query:17"])
    scene.add("worker@vm#2")
    scene.look(10, **RUNNING)
    scene.alive.remove("worker@vm#1")
    assert scene.look(5)["query:17"].held
    case = scene.look(1)["query:17"]
    assert not case.held and case.orphan_seconds == 6
    assert not case.process_only and not case.queue_silent


def test_the_only_worker_of_a_queue_leaves_it_silent() -> None:
    scene = Scene("query:17")
    scene.add("worker@vm#1")
    assert not scene.look(10)["query:17"].queue_silent
    scene.alive.clear()
    assert not scene.look(5)["query:17"].queue_silent
    case = scene.look(1)["query:17"]
    assert case.queue_silent and case.queue_seen == 1940.0


def queue_of(wake: Wake | None, silent: float | None = 60.0) -> dict[str, Any]:
    """A queue without a worker, of which the scaler says this."""
    return {"queues": {"sql_lab": Queue(0, silent, wake)}}


def test_a_queue_is_unstarted_since_the_scaler_s_word_is_gone() -> None:
    scene = Scene("query:17")
    assert scene.look(60, **queue_of(STARTING))["query:17"].unstarted_seconds == 0
    assert scene.look(10, **queue_of(None))["query:17"].unstarted_seconds == 9
    assert scene.look(10, **queue_of(CANNOT))["query:17"].unstarted_seconds == 19
    # Another scaler leads.
    assert scene.look(1, **queue_of(READY))["query:17"].unstarted_seconds == 0
    assert scene.look(1, **queue_of(None))["query:17"].unstarted_seconds == 0


def test_a_watchdog_that_begins_to_look_gives_the_scaler_time() -> None:
    scene = Scene("query:17")
    scene.look(60, **queue_of(None))
    scene.observed.restart()
    assert scene.look(10)["query:17"].unstarted_seconds == 9


@pytest.mark.parametrize(
    ("sent", "silent", "waited"),
    [(1000.0, None, 1000.0), (1000.0, 60.0, 60.0), (1990.0, 60.0, 10.0)],
)
def test_a_query_waits_since_it_was_sent_and_since_the_last_worker_was_seen(
    sent: float, silent: float | None, waited: float
) -> None:
    scene = Scene()
    jobs = {"query:17": replace(JOB, at=sent)}
    case = scene.look(1, jobs=jobs, **queue_of(STARTING, silent))["query:17"]
    assert case.waited_seconds == waited


def test_a_worker_that_is_on_its_way_back_to_the_broker_may_take_from_each_queue() -> None:
    scene = Scene("query:17")
    scene.add("worker@vm#1")
    scene.look(10)
    scene.workers["worker@vm#1"] = replace(scene.workers["worker@vm#1"], queues=[])
    assert not scene.look(60)["query:17"].queue_silent


def test_a_worker_of_another_queue_does_not_take_from_this_one() -> None:
    scene = Scene("query:17")
    scene.add("worker@vm#1")
    scene.workers["worker@vm#1"] = replace(scene.workers["worker@vm#1"], queues=["reports"])
    assert scene.look(7)["query:17"].queue_silent


def test_a_worker_that_drains_takes_nothing_and_keeps_what_it_runs() -> None:
    scene = Scene("query:17")
    scene.add("worker@vm#1", active=["query:17"], draining=True)
    case = scene.look(10, **RUNNING)["query:17"]
    assert case.held and case.queue_silent


def stick(scene: Scene, name: str, seconds: float) -> None:
    """Let a worker say that its event loop has not turned for so long."""
    scene.workers[name] = replace(scene.workers[name], stuck_seconds=seconds)


def test_a_stuck_worker_takes_nothing_and_keeps_what_it_runs() -> None:
    scene = Scene("query:17")
    # It does not see that what it had reserved has begun.
    scene.add("worker@vm#1", reserved=["query:17"])
    stick(scene, "worker@vm#1", 60.0)
    case = scene.look(10, **RUNNING)["query:17"]
    assert case.held and case.queue_silent


def test_what_a_stuck_worker_has_reserved_is_an_orphan() -> None:
    scene = Scene("query:17")
    scene.add("worker@vm#1", reserved=["query:17"])
    scene.add("worker@vm#2")
    stick(scene, "worker@vm#1", 5.9)
    assert scene.look(10)["query:17"].held
    stick(scene, "worker@vm#1", 6.0)
    case = scene.look(1)["query:17"]
    assert not case.held and case.orphan_seconds == 6 and not case.queue_silent


def test_what_a_stuck_worker_had_before_the_job_was_sent_again_does_not_count() -> None:
    scene = Scene("query:17")
    scene.add("worker@vm#1", reserved=["query:17"])
    scene.look(1)
    stuck_at = scene.time
    sent_again = {"query:17": replace(JOB, attempt=2, at=stuck_at + 6)}
    for seconds in range(7, 60):
        stick(scene, "worker@vm#1", float(seconds))
        scene.time = stuck_at + seconds - 1
        assert scene.look(1, jobs=sent_again)["query:17"].orphan_seconds == 0
    stick(scene, "worker@vm#1", 0.0)
    assert scene.look(1)["query:17"].held


def test_a_job_whose_process_was_killed_is_seen_although_its_worker_beats() -> None:
    scene = Scene("query:17")
    scene.add("worker@vm#1", active=["query:17"])
    scene.look(10, **RUNNING)
    scene.workers["worker@vm#1"] = replace(scene.workers["worker@vm#1"], active=[])
    case = scene.look(7)["query:17"]
    assert case.orphan_seconds == 6 and case.process_only and case.ran_seconds == 1000


def test_a_worker_that_said_good_bye_leaves_an_orphan() -> None:
    scene = Scene("query:17")
    case = scene.look(7, **RUNNING)["query:17"]
    assert case.orphan_seconds == 6 and not case.process_only and case.last_beat is None


def test_a_record_of_an_earlier_run_says_nothing_of_this_one() -> None:
    scene = Scene("query:17")
    scene.add("worker@vm#1")
    scene.add("worker@vm#2", active=["query:17"])
    earlier = {"query:17": replace(READS, token="6")}
    case = scene.look(10, rows=RUNNING["rows"], runs=earlier)["query:17"]
    assert case.held and case.worker == "worker@vm#2" and not case.read_only


def test_a_job_that_a_worker_has_reserved_is_held() -> None:
    scene = Scene("query:17")
    scene.add("worker@vm#1", reserved=["query:17"])
    assert scene.look(10, absent={"query:17"})["query:17"].held


def test_a_job_that_a_dead_worker_had_reserved_is_an_orphan() -> None:
    scene = Scene("query:17")
    scene.add("worker@vm#1", reserved=["query:17"])
    scene.add("worker@vm#2")
    scene.look(10)
    scene.alive.remove("worker@vm#1")
    case = scene.look(6)["query:17"]
    assert case.orphan_seconds == 6 and case.worker == "worker@vm#1"


def test_what_a_dead_worker_had_before_the_job_was_sent_again_does_not_count() -> None:
    scene = Scene("query:17")
    scene.add("worker@vm#1", reserved=["query:17"])
    scene.look(1)
    scene.alive.clear()
    sent_again = {"query:17": replace(JOB, attempt=2, at=scene.time + 1)}
    assert scene.look(10, jobs=sent_again)["query:17"].orphan_seconds == 0


def test_a_run_that_has_only_just_begun_is_not_taken_for_that_of_a_dead_worker() -> None:
    scene = Scene("query:17")
    scene.add("worker@vm#1", active=["query:17"])
    scene.look(10, **RUNNING)
    scene.alive.clear()
    sent_again = {"query:17": replace(JOB, attempt=2, at=scene.time + 1)}
    scene.look(60, jobs=sent_again, rows={17: Row("pending", None)}, runs={})
    # The next worker has claimed the row, and has neither written down its run nor beaten since.
    case = scene.look(1, rows={17: Row("running", Decimal(8))})["query:17"]
    assert case.orphan_seconds == 0
    scene.add("worker@vm#2", active=["query:17"])
    case = scene.look(60)["query:17"]
    assert case.held and case.worker == "worker@vm#2"


def test_a_message_that_was_in_no_queue_is_missed_only_when_no_worker_names_its_job() -> None:
    scene = Scene("query:17")
    scene.add("worker@vm#1")
    assert scene.look(10)["query:17"].orphan_seconds == 0
    assert scene.look(7, absent={"query:17"})["query:17"].orphan_seconds == 6
    scene.workers["worker@vm#1"] = replace(scene.workers["worker@vm#1"], active=["query:17"])
    assert scene.look(1)["query:17"].held


def test_a_chart_runs_when_a_run_is_written_down() -> None:
    scene = Scene("chart:x")
    scene.add("worker@vm#1", active=["chart:x"])
    assert scene.look(1)["chart:x"].status == "pending"
    case = scene.look(1, runs={"chart:x": READS})["chart:x"]
    assert case.status == "running" and case.held and case.read_only


def test_a_job_without_a_row_is_finished() -> None:
    assert Scene("query:18").look(1)["query:18"].status == ""


def test_nothing_was_observed_while_nobody_looked() -> None:
    scene = Scene("query:17")
    scene.add("worker@vm#1", active=["query:17"])
    scene.look(10, **RUNNING)
    scene.alive.clear()
    scene.time += 60
    assert scene.look(6)["query:17"].held
    assert not scene.look(1)["query:17"].held


def test_observing_begins_anew_after_an_outage() -> None:
    scene = Scene("query:17")
    scene.add("worker@vm#1", active=["query:17"])
    scene.look(10, **RUNNING)
    scene.alive.clear()
    scene.look(5)
    scene.observed.restart()
    assert scene.look(6)["query:17"].held
    assert not scene.look(1)["query:17"].held


def test_a_wrong_clock_of_redis_makes_no_worker_silent() -> None:
    scene = Scene("query:17")
    scene.add("worker@vm#1", active=["query:17"])
    scene.look(10, **RUNNING)
    scene.sight = replace(scene.sight, now=-3600.0)
    for _ in range(10):
        beat = scene.workers["worker@vm#1"].last_beat
        scene.workers["worker@vm#1"] = replace(scene.workers["worker@vm#1"], last_beat=beat - 3600)
        scene.alive.clear()
        case = scene.look(1)["query:17"]
    assert case.held and not case.queue_silent


def test_rows_without_job_are_those_that_are_in_no_register_and_with_no_worker_that_lives() -> None:
    scene = Scene("query:17")
    scene.add("worker@vm#1", active=["query:1"])
    scene.add("worker@vm#2", active=["query:2"])
    scene.look(1)
    scene.alive.remove("worker@vm#2")
    scene.look(6)
    unfinished = {number: Row("running", None) for number in (1, 2, 3, 17)}
    unknown, died = rows_without_job(scene.sight, silences(scene.sight, scene.observed), unfinished)
    assert list(unknown) == [2, 3]
    assert died == {2: scene.workers["worker@vm#2"]}
