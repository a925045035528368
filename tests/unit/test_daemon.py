"""What every daemon is made of: its loop, its lines in the journal, its credentials."""

from __future__ import annotations

import logging
import os
import signal
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from superset_fleet.daemon.credentials import aws_config
from superset_fleet.daemon.journal import tell
from superset_fleet.daemon.loop import repeat, run, until_terminated


@pytest.fixture
def heard(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[], list[str]]]:
    """What systemd has heard since it was asked last."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK) as systemd:
        systemd.bind(str(tmp_path / "notify"))
        monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))

        def read() -> list[str]:
            found = []
            while True:
                try:
                    found.append(systemd.recv(1000).decode())
                except BlockingIOError:
                    return found

        yield read


class After:
    """Terminates at so many waits, and keeps how long they were to be."""

    def __init__(self, number: int) -> None:
        self.number, self.waits = number, list[float]()

    def __call__(self, seconds: float) -> bool:
        self.waits.append(seconds)
        return len(self.waits) == self.number


# -- The loop -------------------------------------------------------------------------------------
def test_systemd_hears_ready_after_the_first_step_then_the_status_and_the_stop(
    heard: Callable[[], list[str]],
) -> None:
    steps: list[list[str]] = []

    def step() -> float:
        steps.append(heard())
        return 0

    assert not run(step, After(2), lambda: f"{len(steps)} steps")
    assert steps == [[], ["READY=1\nWATCHDOG=1\nSTATUS=1 steps"]]
    assert heard() == ["WATCHDOG=1\nSTATUS=2 steps", "STOPPING=1"]


def test_work_that_is_finished_needs_no_signal(heard: Callable[[], list[str]]) -> None:
    pauses, terminated = iter([1.0, 0.5, None]), After(9)
    assert run(lambda: next(pauses), terminated)
    assert terminated.waits == [1.0, 0.5]
    assert heard()[-1] == "STOPPING=1"


def test_a_signal_leaves_no_step_halfway() -> None:
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    done = []

    def step() -> float:
        os.kill(os.getpid(), signal.SIGTERM)
        done.append("all of it")
        return 60

    try:
        assert not run(step, until_terminated())
    finally:
        signal.set_wakeup_fd(-1)
        for number, handler in before.items():
            signal.signal(number, handler)
    assert done == ["all of it"]


def test_an_error_is_told_once_is_the_status_and_stops_nothing(
    heard: Callable[[], list[str]], caplog: pytest.LogCaptureFixture
) -> None:
    results = iter([None, OSError("no"), OSError("no"), None])
    cleared = []

    def tick() -> None:
        if error := next(results):
            raise error

    repeat(tick, 0, After(4), (OSError,), lambda: "leads", lambda: cleared.append(1))
    assert [line.partition("STATUS=")[2] for line in heard()[:-1]] == [
        "leads",
        "OSError: no",
        "OSError: no",
        "leads",
    ]
    assert caplog.messages == ['event=trouble reason="OSError: no"', "event=well"]
    assert not caplog.records[0].exc_info
    assert len(cleared) == 2


def test_an_unforeseen_error_is_told_with_its_trace(caplog: pytest.LogCaptureFixture) -> None:
    def tick() -> None:
        raise KeyError("typo")

    repeat(tick, 0, After(1), (OSError,))
    assert caplog.messages == ["event=trouble reason=\"KeyError: 'typo'\""]
    assert caplog.records[0].exc_info


def test_a_tick_that_took_long_is_followed_at_once() -> None:
    terminated = After(2)
    repeat(lambda: time.sleep(0.02), 0.01, terminated, ())
    assert terminated.waits == [0.0, 0.0]
    terminated = After(1)
    repeat(lambda: time.sleep(0.02), 60.0, terminated, ())
    assert 59 < terminated.waits[0] <= 59.98


# -- The journal ----------------------------------------------------------------------------------
def test_values_with_blanks_are_quoted_and_every_line_is_one(
    caplog: pytest.LogCaptureFixture,
) -> None:
    tell("drain", server="i-1", reason='says "no"', more="", lines="a\nb", number=3)
    assert caplog.messages == [
        r'event=drain server=i-1 reason="says \"no\"" more="" lines="a\nb" number=3'
    ]


def test_lines_are_shown_where_superset_shows_warnings_alone(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.WARNING)
    tell("fenced", job="query:1")
    assert caplog.messages == ["event=fenced job=query:1"]


# -- Credentials ----------------------------------------------------------------------------------
def test_the_aws_config_is_what_systemd_handed_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source, handed = tmp_path / "aws.ini", tmp_path / "credentials" / "aws.ini"
    handed.parent.mkdir()
    source.write_text("[default]\n")
    assert aws_config(source) == source
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(handed.parent))
    assert aws_config(source) is None
    handed.write_text("none")  # what the unit sets where there is no such file
    assert aws_config(source) is None
    handed.write_text("# Ours\n[default]\n")
    assert aws_config(source) == handed
