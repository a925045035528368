"""What is called by Superset, Celery and gunicorn, guarded or not."""

import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import psycopg2.extensions
import pytest
from celery import Celery, signals
from celery.beat import Scheduler, Service

from superset_fleet.guard import databases, hooks, setup


@pytest.fixture
def superset(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Superset, of which each module that is asked for has to be made."""

    def module(name: str, **attributes: Any) -> ModuleType:
        made = ModuleType(name)
        vars(made).update(attributes)
        monkeypatch.setitem(sys.modules, name, made)
        return made

    module("superset")
    module("superset.tasks")
    return module


def test_a_query_is_signed_with_the_service_and_machine_that_run_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(socket, "gethostname", lambda: "vm-7")
    sign = hooks.signed_by("celery_worker")
    assert sign("select 1", security_manager=None, database=None) == (
        "-- superset celery_worker on vm-7\nselect 1"
    )


def test_mutators_change_the_application_in_turn() -> None:
    app: list[int] = []
    hooks.in_turn(lambda app: app.append(1), lambda app: app.append(2))(app)
    assert app == [1, 2]


def test_the_fleet_s_mutator_is_not_done_twice_where_the_overrides_have_none() -> None:
    def fleet(app: list[str]) -> None:
        app.append("fleet")

    for theirs in (None, fleet):
        app: list[str] = []
        hooks.last(fleet, theirs)(app)
        assert app == ["fleet"]


def test_beat_goes_on_while_it_looks_for_due_reports() -> None:
    over, looked = threading.Event(), threading.Event()

    def apply() -> None:
        over.wait(30)
        looked.set()

    hooks.look_for_due_reports(SimpleNamespace(apply=apply), (), expires=60)
    assert not looked.is_set()
    over.set()
    assert looked.wait(30)


@pytest.fixture
def listening() -> Iterator[None]:
    """Receivers that listen, as long as a test runs."""
    hooks.connect_signals()
    yield
    for signal in (signals.worker_process_init, signals.beat_init):
        signal.disconnect(hooks.disconnect_teardown)
    for signal in (signals.worker_ready, signals.beat_init):
        signal.disconnect(hooks.notify_ready)
    signals.beat_init.disconnect(hooks.watch_ticks)


@pytest.fixture
def systemd(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[socket.socket]:
    """The socket by which systemd hears of a service."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as told:
        told.bind(str(tmp_path / "notify"))
        told.settimeout(5)
        monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))
        yield told


def teardown(**_: Any) -> None:
    """What Superset has left over."""


@contextmanager
def left_over() -> Iterator[None]:
    signals.task_postrun.connect(teardown, weak=False)
    try:
        yield
    finally:
        signals.task_postrun.disconnect(teardown)


@pytest.mark.parametrize("signal", [signals.worker_ready, signals.beat_init], ids=repr)
@pytest.mark.usefixtures("listening")
def test_systemd_is_told_when_a_worker_or_a_beat_is_ready(
    signal: Any, systemd: socket.socket, superset: Any
) -> None:
    superset("superset.tasks.celery_app", teardown=teardown)
    signal.send(sender=None)
    assert systemd.recv(100) == b"READY=1"


@pytest.mark.usefixtures("listening")
def test_systemd_watches_a_beat_from_its_first_tick_on(
    systemd: socket.socket, superset: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    superset("superset.tasks.celery_app", teardown=teardown)
    monkeypatch.setenv("WATCHDOG_USEC", "5000000")
    beat = Service(Celery(set_as_current=False), max_interval=0.01, scheduler_cls=Scheduler)
    thread = threading.Thread(target=beat.start)
    thread.start()
    try:
        told = [systemd.recv(100) for _ in range(4)]
    finally:
        beat.stop()
        thread.join()
    ticks = [b"WATCHDOG_USEC=5000000\nWATCHDOG=1"] * 2
    assert told == [b"READY=1", b"WATCHDOG_USEC=0", *ticks]


@pytest.mark.parametrize("signal", [signals.worker_process_init, signals.beat_init], ids=repr)
@pytest.mark.usefixtures("listening")
def test_what_superset_has_left_over_is_taken_off_where_tasks_run(
    signal: Any, superset: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("NOTIFY_SOCKET", raising=False)
    superset("superset.tasks.celery_app", teardown=teardown)
    with left_over():
        assert [name for name, _ in signals.task_postrun.send(sender=None) if name is teardown]
        signal.send(sender=None)
        assert not [name for name, _ in signals.task_postrun.send(sender=None) if name is teardown]


@pytest.mark.parametrize(
    ("service", "waits"), [("celery_worker", True), ("superset_web", True), ("scheduler", False)]
)
def test_workers_hear_the_time_limit_and_web_processes_silence_while_postgresql_works(
    monkeypatch: pytest.MonkeyPatch, service: str, waits: bool
) -> None:
    monkeypatch.setattr(hooks, "connect_signals", lambda: None)
    try:
        setup.listen(service)
        assert (psycopg2.extensions.get_wait_callback() is databases.wait) is waits
    finally:
        psycopg2.extensions.set_wait_callback(None)


def test_gunicorn_s_processes_share_no_connection_with_their_parent(superset: Any) -> None:
    done = []

    class App:
        @contextmanager
        def app_context(self) -> Iterator[None]:
            done.append("context")
            yield
            done.append("over")

    engine = SimpleNamespace(dispose=lambda: done.append("disposed"))
    superset("superset.extensions", db=SimpleNamespace(engine=engine))
    hooks.close_connections(SimpleNamespace(app=SimpleNamespace(wsgi=App)))
    assert done == ["context", "disposed", "over"]


# -- Memory ---------------------------------------------------------------------------------------
# In a process of its own, which is limited for good.
POOL = """
from celery import signals
from superset_fleet.guard import hooks, run

hooks.allowed_memory = lambda: 1000 << 20
hooks.share_memory()
signals.celeryd_init.send("worker@vm", instance=None, conf=None, options={"concurrency": 2})
signals.worker_process_init.send(None)
bytearray(100 << 20)
try:
    bytearray(600 << 20)
except MemoryError:
    print(run.too_large())
"""


def test_a_process_of_a_pool_gets_no_more_memory_than_its_part() -> None:
    said = subprocess.run([sys.executable, "-c", POOL], capture_output=True, text=True, check=True)
    assert "more memory than the 500 MiB that its process may have" in said.stdout


@pytest.mark.parametrize(("limit", "allowed"), [("1048576", 1048576), ("max", None), (None, None)])
def test_what_a_service_may_have_is_what_systemd_has_set(
    tmp_path: Path, limit: str | None, allowed: int | None
) -> None:
    own = tmp_path / "sys/fs/cgroup/system.slice/celery-worker.service"
    for directory in (own, tmp_path / "proc/self"):
        directory.mkdir(parents=True)
    (tmp_path / "proc/self/cgroup").write_text("0::/system.slice/celery-worker.service\n")
    if limit:
        (own / "memory.max").write_text(f"{limit}\n")
    assert hooks.allowed_memory(tmp_path) == allowed
