"""Steps of ./fleet up, as somebody sees them: real commands, lines and a terminal."""

import json
import os
import pty
import re
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from rehearsal import steps
from rehearsal.steps import Command, Failed, Step, duration
from superset_fleet.control.ask import ROOT


@pytest.fixture(autouse=True)
def state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A state directory of the test's own."""
    monkeypatch.setattr(steps, "STATE", tmp_path)
    monkeypatch.setattr(steps, "LOGS", tmp_path / "log")
    return tmp_path


def sh(name: str, script: str) -> Command:
    return Command(name, ["sh", "-c", script])


def test_each_step_has_a_number_and_says_when_it_is_done(capsys: Any) -> None:
    steps.run([Step("Image", [sh("bake", "true")]), Step("Fleet", [sh("site", "true")])])
    lines = re.sub(r"\d+ s$", "N s", capsys.readouterr().out, flags=re.M).splitlines()
    assert lines[1:] == [
        "[1/2] Image",
        "[1/2] Image: done, N s",
        "[2/2] Fleet",
        "[2/2] Fleet: done, N s",
    ]


def test_what_commands_write_is_in_their_logs_and_not_on_the_screen(
    capsys: Any, state: Path
) -> None:
    steps.run([Step("Image", [sh("bake", "echo noise; echo more noise >&2")])])
    assert "noise" not in capsys.readouterr().out
    assert (state / "log/bake.log").read_text() == "noise\nmore noise\n"


def test_the_next_run_says_how_long_each_step_will_take(capsys: Any, state: Path) -> None:
    (state / "seconds.json").write_text(json.dumps({"Image": 200, "Fleet": 42}))
    steps.run([Step("Image", [sh("bake", "true")]), Step("Fleet", [sh("site", "true")])])
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("about 4 min 2 s, as the last time; ")
    assert lines[1] == "[1/2] Image (about 3 min 20 s)"
    assert json.loads((state / "seconds.json").read_text())["Image"] < 200


def test_a_failure_names_the_log_and_shows_its_last_lines(capsys: Any, state: Path) -> None:
    script = "for i in $(seq 100); do echo line $i; done; exit 3"
    with pytest.raises(Failed) as failed:
        steps.run([Step("Image", [sh("bake", script)]), Step("Fleet", [sh("site", "true")])])
    said = str(failed.value)
    assert said.startswith("[1/2] Image: failed after")
    assert f"the last lines of {state}/log/bake.log" in said
    assert "line 100" in said
    assert "line 5\n" not in said
    assert "[2/2]" not in capsys.readouterr().out
    assert not (state / "seconds.json").exists()


@pytest.mark.parametrize("heading", ["=== FAILURES ===", "  │ ==== ERRORS ===="])
def test_of_tests_that_failed_it_is_shown_how_whatever_is_printed_later(
    state: Path, heading: str
) -> None:
    log = [
        "a.py .F",
        heading,
        "E   assert 1 == 2",
        *("x" for _ in range(200)),
        "1 failed",
    ]
    (state / "pytest.out").write_text("\n".join(log))
    with pytest.raises(Failed) as failed:
        steps.run([Step("Tests", [sh("unit", f"cat {state}/pytest.out; exit 1")])])
    said = str(failed.value)
    assert "E   assert 1 == 2" in said
    assert "1 failed" in said
    assert "a.py .F" not in said
    assert said.count("\n") < 120


def test_commands_of_one_step_run_at_the_same_time(state: Path) -> None:
    """Each waits for what the other one makes."""
    one = sh("one", f"touch {state}/a; until [ -e {state}/b ]; do sleep 0.05; done")
    other = sh("other", f"until [ -e {state}/a ]; do sleep 0.05; done; touch {state}/b")
    steps.run([Step("Both", [one, other])])


def test_where_one_command_of_a_step_fails_the_others_are_stopped_with_their_children(
    state: Path,
) -> None:
    process = f"sh -c 'echo $$ >{state}/new; mv {state}/new {state}/child; sleep 600'"
    good = sh("good", f"{process}; true")
    bad = sh("bad", f"until [ -e {state}/child ]; do sleep 0.05; done; exit 1")
    with pytest.raises(Failed, match=r"bad\.log"):
        steps.run([Step("Both", [good, bad])])
    child = int((state / "child").read_text())
    seen(lambda: not alive(child))


def test_silence_is_broken_by_the_task_that_ansible_does(
    capsys: Any, state: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(steps, "SILENCE_SECONDS", 0)
    script = "echo 'TASK [redis : Install packages] ****'; echo 'ok: [i-1]'; sleep 1"
    steps.run([Step("Fleet", [sh("site", script)])])
    said = capsys.readouterr().out
    assert re.search(r"^\[1/1\] Fleet: \d+ s: redis : Install packages$", said, re.M)


@pytest.mark.parametrize(
    ("log", "doing"),
    [
        ("", "starts"),
        ("one\ntwo\n\n", "two"),
        ("TASK [a : b] ***\nok: [i-1]\nRUNNING HANDLER [c : d] ****\n", "c : d"),
        (
            "TASK [a] ***\nINFO    \x1b[0m \x1b[32magent\x1b[0m ➜ verify: Executing\x1b[0m\nx\n",
            "agent ➜ verify",
        ),
    ],
)  # fmt: skip
def test_what_goes_on_is_read_from_the_log(tmp_path: Path, log: str, doing: str) -> None:
    (tmp_path / "log").write_text(log)
    assert steps.activity(tmp_path / "log") == doing


# -- From outside: a process that runs steps ------------------------------------------------------
PROGRAM = """
    import sys; from pathlib import Path; from rehearsal import steps
    steps.STATE = Path(sys.argv[1]); steps.LOGS = steps.STATE / "log"
    child = f"echo $$ >{sys.argv[1]}/new; mv {sys.argv[1]}/new {sys.argv[1]}/child; exec sleep 600"
    import signal; signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored, where tests run in the back
    steps.run([steps.Step("Image", [steps.Command("bake", ["sh", "-c", child])])])
"""


def alive(process: int) -> bool:
    """Return whether a process runs; a zombie does not."""
    try:
        text = Path(f"/proc/{process}/stat").read_text()
    except FileNotFoundError:
        return False
    return text.rpartition(")")[2].split()[0] != "Z"


def seen(what: Callable[[], Any]) -> None:
    """Wait at most a minute until something is so."""
    deadline = time.monotonic() + 60
    while not what():
        assert time.monotonic() < deadline
        time.sleep(0.02)


@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM", "SIGKILL"])
def test_what_a_step_runs_does_not_outlive_it(state: Path, name: str) -> None:
    program = [sys.executable, "-c", textwrap.dedent(PROGRAM), str(state)]
    with subprocess.Popen(
        program, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    ) as process:
        seen((state / "child").exists)
        child = int((state / "child").read_text())
        assert alive(child)
        process.send_signal(getattr(signal, name))
        assert process.wait(60) != 0
    seen(lambda: not alive(child))


def test_on_a_terminal_one_line_is_drawn_again(state: Path) -> None:
    ours, theirs = pty.openpty()
    program = [sys.executable, "-c", textwrap.dedent(PROGRAM), str(state)]
    with subprocess.Popen(
        program, cwd=ROOT, stdout=theirs, stderr=subprocess.DEVNULL,
        env=os.environ | {"TERM": "xterm"},
    ) as process:  # fmt: skip
        os.close(theirs)
        drawn = b""
        while drawn.count(b"\r\x1b[K[1/1] Image: ") < 3:
            drawn += os.read(ours, 1000)
        process.kill()
    os.close(ours)
    assert drawn.count(b"\n") == 1  # the line that names the logs


@pytest.mark.parametrize(
    ("seconds", "words"), [(0.4, "0 s"), (59.6, "1 min 0 s"), (200, "3 min 20 s")]
)
def test_times_are_said_in_minutes_and_seconds(seconds: float, words: str) -> None:
    assert duration(seconds) == words
