"""What is learned of how long tasks take: from the newest of each queue, for those that wait."""

import pytest

from superset_fleet.scaler.decide import Policy
from superset_fleet.scaler.durations import COUNTED, Durations
from superset_fleet.state.records import Worker

GROUP = "superset-celery_worker"
POLICY = Policy(0, 4, acceptable_wait_seconds=10, cooldown_seconds=300, start_seconds=60)


def worker(group: str = GROUP, **finished: tuple[int, list[float]]) -> Worker:
    return Worker("vm", 1, ["sql_lab"], 2, group=group, finished=finished)


def learned(*seconds: float) -> Durations:
    durations = Durations()
    durations.learn({"life": worker(sql_lab=(len(seconds), list(seconds)))})
    return durations


def test_nothing_is_known_before_a_task_has_finished() -> None:
    assert Durations().seconds(GROUP, {"sql_lab": 3}, POLICY) is None


def test_finished_tasks_are_averaged_and_a_whale_counts_little() -> None:
    assert learned(1, 2, 3).seconds(GROUP, {}, POLICY) == pytest.approx(2)
    assert learned(*[1.0] * 49, 3600).seconds(GROUP, {}, POLICY) == pytest.approx(109 / 50)


def test_a_beat_that_says_nothing_new_counts_no_task_twice() -> None:
    durations = learned(1, 1)
    durations.learn({"life": worker(sql_lab=(2, [1, 1]))})
    durations.learn({"life": worker(sql_lab=(3, [1, 1, 4]))})
    assert durations.seconds(GROUP, {}, POLICY) == pytest.approx(2)


def test_who_begins_to_look_learns_the_newest_tasks_of_each_life_at_once() -> None:
    durations = Durations()
    durations.learn({"a": worker(sql_lab=(900, [2.0, 2.0])), "b": worker(sql_lab=(1, [5.0]))})
    assert durations.seconds(GROUP, {}, POLICY) == pytest.approx(3)


def test_newer_tasks_take_the_place_of_older_ones() -> None:
    durations = learned(*[10.0] * 20)
    for number in range(1, COUNTED // 20 + 2):
        durations.learn({"life": worker(sql_lab=(20 * (number + 1), [1.0] * 20))})
    assert durations.seconds(GROUP, {}, POLICY) == pytest.approx(1)


def test_what_waits_decides_which_queue_s_tasks_count() -> None:
    durations = Durations()
    durations.learn({"life": worker(sql_lab=(1, [20.0]), charts=(2, [0.5, 0.5]))})
    assert durations.seconds(GROUP, {"charts": 9}, POLICY) == pytest.approx(0.5)
    assert durations.seconds(GROUP, {"sql_lab": 2}, POLICY) == pytest.approx(20)
    assert durations.seconds(GROUP, {"charts": 1, "sql_lab": 1}, POLICY) == pytest.approx(10.25)
    assert durations.seconds(GROUP, {"warmup": 1}, POLICY) == pytest.approx(10.25)


def test_groups_learn_by_themselves() -> None:
    durations = learned(1.0)
    durations.learn({"other": worker("superset-reports", sql_lab=(1, [20.0]))})
    assert durations.seconds("superset-reports", {}, POLICY) == pytest.approx(20)
    assert durations.seconds(GROUP, {}, POLICY) == pytest.approx(1)
