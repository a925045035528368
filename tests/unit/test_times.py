"""Times that belong together."""

import os
import subprocess
import sys
from dataclasses import replace

import pytest

from superset_fleet.times import FACTOR, TIMES, Times


def test_times_that_contradict_each_other_are_refused_with_the_rule() -> None:
    with pytest.raises(ValueError, match="a pause is no silence: watch_break < silent"):
        replace(Times(), watch_break_seconds=4.0)
    with pytest.raises(ValueError, match=r"lead . scale < wake.*lead . scale < unstarted"):
        replace(Times(), wake_seconds=8.0, unstarted_seconds=8.0)


def test_a_factor_keeps_the_proportions() -> None:
    quick = Times().scaled(0.1)
    assert quick.silent_seconds == pytest.approx(0.6)
    assert quick.lively_seconds == pytest.approx(Times().lively_seconds / 10)


def test_a_process_has_production_s_times_unless_its_environment_says_otherwise() -> None:
    assert Times() == TIMES
    program = "from superset_fleet.times import TIMES; print(TIMES.silent_seconds)"
    said = subprocess.check_output(
        [sys.executable, "-c", program], env=os.environ | {FACTOR: "0.5"}, text=True
    )
    assert float(said) == 3.0
