"""The canary fails the play, and says what is wrong, where a query would not come back."""

from collections.abc import Iterator
from contextlib import contextmanager

from support import Play, replaced, stopped

from superset_fleet.ansible import run_module

BRIEF = ("--extra-vars", "canary_timeout_seconds=20")


@contextmanager
def another_key_on_the_workers() -> Iterator[None]:
    restart = {"name": "celery-worker", "state": "restarted"}
    module = "ansible.builtin.systemd_service"
    other = '"secret_key": "a key that differs from the web machines\' key"'
    try:
        with replaced("celery_worker", "/etc/superset/facts.json", '"secret_key": ".*"', other):
            run_module("celery_worker", module, restart, become=True)
            yield
    finally:
        run_module("celery_worker", module, restart, become=True)


def test_it_passes_and_changes_nothing_when_all_is_well(play: Play) -> None:
    done = play("canary")
    assert done.returncode == 0, done.stdout
    assert "changed=0" in done.stdout


def test_it_names_the_queue_that_no_worker_takes(play: Play) -> None:
    with stopped("celery_worker", "celery-worker"):
        done = play("canary", *BRIEF)
    assert done.returncode != 0
    assert "No worker takes queries from the queue 'sql_lab'" in done.stdout
    assert "systemctl status celery-worker" in done.stdout


def test_it_names_the_results_redis_when_that_is_down(play: Play) -> None:
    with stopped("redis", "redis-server@results"):
        done = play("canary", *BRIEF)
    assert done.returncode != 0
    assert "results" in done.stdout


def test_it_names_the_secret_key_when_workers_have_another_one(play: Play) -> None:
    with another_key_on_the_workers():
        done = play("canary", *BRIEF)
    assert done.returncode != 0
    assert "SECRET_KEY" in done.stdout


def test_it_passes_again_when_all_is_mended(play: Play) -> None:
    done = play("canary")
    assert done.returncode == 0, done.stdout
