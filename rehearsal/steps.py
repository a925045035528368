"""Steps that tell: what is done, what it waits for, how long it took and how long it will take.

A step is one command, or several at the same time. What they write goes to a log of each; what is
shown is one line: redrawn on a terminal, else a new one every few seconds.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TextIO

ROOT = Path(__file__).resolve().parents[1]
STATE = ROOT / ".localcloud"
LOGS = STATE / "log"
SILENCE_SECONDS = 8.0  # the longest, where lines cannot be redrawn
LOOK_SECONDS = 0.2
STOP_SECONDS = 15.0  # for a command that was asked to stop
END_LINES = 30  # of a log, shown when its command failed
FAILURE_LINES = 80  # of what pytest says of tests that failed, shown before that
FAILURES = re.compile(r"^[ │]*=+ (?:FAILURES|ERRORS) =+", re.M)  # Molecule indents and wraps
# Ansible's task, Molecule's scenario and action.
ACTIVITY = re.compile(
    r"^(?:(?:TASK|RUNNING HANDLER) \[(.*)\] \**|INFO +(\S+ ➜ \w+): Executing)$", re.M
)
COLOUR = re.compile(r"\x1b\[[0-9;]*[A-Za-z]")


class Failed(Exception):
    """A step failed; the message has the last lines of its log."""


@dataclass(frozen=True)
class Command:
    """A command of a step; its log has its name."""

    name: str
    words: Sequence[str | Path]
    environment: Mapping[str, str] = field(default_factory=dict)
    inner: Path | None = None  # log of what it runs and does not tell of itself

    @property
    def log(self) -> Path:
        return LOGS / f"{self.name}.log"


@dataclass(frozen=True)
class Step:
    """Commands that run at the same time. All have to succeed."""

    title: str
    commands: Sequence[Command]


class Estimates:
    """How long each step took when it succeeded last, in seconds, kept in a file."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.known: dict[str, float] = {}
        with contextlib.suppress(OSError, ValueError):
            self.known = json.loads(path.read_text())

    def keep(self, title: str, seconds: float) -> None:
        """Remember how long a step took."""
        self.known[title] = round(seconds, 1)
        new = self.path.with_suffix(".new")
        new.write_text(json.dumps(self.known, indent=2) + "\n")
        new.replace(self.path)


class Running:
    """A command that runs. It is told to stop when this process dies, even by SIGKILL."""

    def __init__(self, command: Command) -> None:
        self.command = command
        command.log.parent.mkdir(parents=True, exist_ok=True)
        with command.log.open("w") as log:
            self.process = subprocess.Popen(
                ["setpriv", "--pdeathsig", "TERM", *map(str, command.words)],
                cwd=ROOT,
                env={
                    **os.environ,
                    "ANSIBLE_NOCOLOR": "1",
                    "PYTHONUNBUFFERED": "1",
                    **command.environment,
                },
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                process_group=0,
            )

    def now(self) -> str:
        """Return what it does now: the task, or else the last line that it wrote."""
        doing = activity(self.command.log)
        inner = self.command.inner
        if inner and inner.exists() and inner.stat().st_mtime > self.command.log.stat().st_mtime:
            doing += f": {activity(inner)}"
        return doing

    def stop(self) -> None:
        """Let it stop, and its children; kill those that do not."""
        for name in (signal.SIGTERM, signal.SIGKILL):
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.process.pid, name)
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.process.wait(STOP_SECONDS)

    def failure(self) -> str:
        """Return what its log says of tests that failed, and its last lines; the log is named."""
        text = COLOUR.sub("", self.command.log.read_text(errors="replace"))
        lines, first = text.splitlines(), []
        if found := FAILURES.search(text):
            begin = text.count("\n", 0, found.start())
            first = [*lines[begin : len(lines) - END_LINES][:FAILURE_LINES], "..."]
        told = [f"    {line}" for line in [*first, *lines[-END_LINES:]]]
        return "\n".join([f"the last lines of {shown(self.command.log)}:", "", *told, ""])


def activity(log: Path) -> str:
    """Return what a log says is done now."""
    with log.open("rb") as file:
        file.seek(max(0, file.seek(0, os.SEEK_END) - 65536))
        text = COLOUR.sub("", file.read().decode(errors="replace"))
    if found := ACTIVITY.findall(text):
        return "".join(found[-1])
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1] if lines else "starts"


class Screen:
    """One line that says what goes on."""

    def __init__(self, out: TextIO) -> None:
        self.out = out
        self.redraws = out.isatty() and os.environ.get("TERM") != "dumb"
        self.told = time.monotonic()

    def line(self, text: str) -> None:
        """Print a line that stays."""
        self.out.write(f"{self.clear}{text}\n")
        self.out.flush()
        self.told = time.monotonic()

    @property
    def clear(self) -> str:
        return "\r\x1b[K" if self.redraws else ""

    def progress(self, text: str) -> None:
        """Show what goes on: at once where it can be redrawn, else before silence gets long."""
        if self.redraws:
            width = shutil.get_terminal_size().columns - 1
            self.out.write(f"{self.clear}{text[:width]}")
            self.out.flush()
        elif time.monotonic() - self.told > SILENCE_SECONDS:
            self.line(text)


def duration(seconds: float) -> str:
    """Return a time in words: 42 s, or 3 min 20 s."""
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"


def run(steps: Sequence[Step]) -> None:
    """Run steps one after the other. Raises Failed; what still runs is stopped first."""
    estimates, screen = Estimates(STATE / "seconds.json"), Screen(sys.stdout)
    known = [estimates.known.get(step.title) for step in steps]
    whole = duration(sum(seconds or 0 for seconds in known))
    first = f"logs: {shown(LOGS)}/"
    screen.line(first if None in known else f"about {whole}, as the last time; {first}")
    for number, (step, seen) in enumerate(zip(steps, known, strict=True), start=1):
        estimate = seen if seen and seen >= 1 else None  # of what takes no time none is needed
        label = f"[{number}/{len(steps)}] {step.title}"
        seconds = run_step(label, step, estimate, screen)
        estimates.keep(step.title, seconds)
        screen.line(f"{label}: done, {duration(seconds)}")


def run_step(label: str, step: Step, estimate: float | None, screen: Screen) -> float:
    """Run the commands of a step at the same time; return the seconds they took. Raises Failed."""
    began = time.monotonic()
    about = f" of about {duration(estimate)}" if estimate else ""
    if not screen.redraws:
        screen.line(f"{label} (about {duration(estimate)})" if estimate else label)
    with stopped_at_last() as running:
        running += [Running(command) for command in step.commands]
        while left := [one for one in running if one.process.poll() is None]:
            if any(one.process.returncode for one in running):
                break  # the others would only hide the reason
            doing = " | ".join(
                f"{one.command.name}: {one.now()}" if len(running) > 1 else one.now()
                for one in left
            )
            screen.progress(f"{label}: {duration(time.monotonic() - began)}{about}: {doing}")
            time.sleep(LOOK_SECONDS)
        seconds = time.monotonic() - began
        for one in running:
            if one.process.returncode:
                raise Failed(f"{label}: failed after {duration(seconds)}; {one.failure()}")
    return seconds


@contextlib.contextmanager
def stopped_at_last() -> Iterator[list[Running]]:
    """Stop the commands that still run when this is left, for whatever reason."""
    running: list[Running] = []
    try:
        yield running
    finally:
        for one in running:
            if one.process.poll() is None:
                one.stop()


def shown(path: Path) -> str:
    """Return a path as users type it in the checkout."""
    return str(path.relative_to(ROOT)) if path.is_relative_to(ROOT) else str(path)
