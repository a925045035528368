"""Superset's configuration as the role writes it and as each service executes it."""

import json
import re
import runpy
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from sqlalchemy.engine import make_url

from superset_fleet.guard import hangs, hooks, setup
from superset_fleet.guard.databases import LIBPQ, Metadata
from superset_fleet.guard.web import limits, permissions
from superset_fleet.guard.web.ready import Ready
from superset_fleet.state.jobs import TASKS
from superset_fleet.times import TIMES
from tests.support import templates

GIVEN = {
    "superset_tls_enabled": True,
    "superset_webserver_timeout_seconds": 60,
    "superset_query_timeout_seconds": 3600,
    "superset_query_hard_timeout_seconds": 3660,
    "superset_visibility_timeout_seconds": 4560,
    "superset_results_ttl_seconds": 86400,
    "superset_guard_enabled": True,
    "superset_no_worker_policy": "fail",
    "superset_browser_enabled": False,
}
REDIS = {"host": "127.0.0.1", "port": 1, "password": "p@ss"}
FACTS = {
    "secret_key": "secret",
    "database": {"host": "db", "port": 5432, "name": "s", "user": "s", "password": "p"},
    "redis": {"coordination": REDIS, "results": REDIS, "cache": REDIS},
    "urls": {"users": "https://superset", "workers": "http://10.0.0.5:8090"},
    "smtp": {},
}
Config = Callable[..., SimpleNamespace]


@pytest.fixture
def joined(monkeypatch: pytest.MonkeyPatch) -> list[object]:
    """What has joined the application, instead of joining it: the mutators' order."""
    joined: list[object] = []
    monkeypatch.setattr(setup, "join", lambda guard, app: joined.append(guard))
    monkeypatch.setattr(Ready, "install", lambda ready, app: joined.append("ready"))
    monkeypatch.setattr(hangs, "bound", lambda app: joined.append("bound"))
    monkeypatch.setattr(limits, "install", lambda app: joined.append("limits"))
    return joined


@pytest.fixture
def listens(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The services that would listen to Celery's signals in this process."""
    listens: list[str] = []
    monkeypatch.setattr(setup, "listen", listens.append)
    return listens


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is there beside Superset alone."""
    monkeypatch.setattr(setup, "action_log", lambda: "by a thread")
    monkeypatch.setattr(permissions, "keep", lambda manager: ("keeps", manager))


@pytest.fixture
def config(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, joined: list[object], listens: list[str]
) -> Config:
    def config(
        service: str = "superset_web",
        overrides: str = "",
        facts: dict[str, Any] = FACTS,
        **inputs: Any,
    ) -> SimpleNamespace:
        path = tmp_path / "superset_config.py"
        path.write_text(templates.render("superset", "superset_config.py.j2", **GIVEN | inputs))
        path.with_name("superset_config_overrides.py").write_text(overrides)
        (tmp_path / "facts.json").write_text(json.dumps(facts))
        monkeypatch.setenv("SUPERSET_FACTS", str(tmp_path / "facts.json"))
        monkeypatch.setenv("SUPERSET_SERVICE", service)
        return SimpleNamespace(**runpy.run_path(str(path)))

    return config


def test_facts_that_lack_something_are_refused_with_who_makes_them(config: Config) -> None:
    with pytest.raises(SystemExit, match=r"KeyError: 'secret_key'.*playbooks/site\.yml"):
        config(facts={})


# -- The guard ------------------------------------------------------------------------------------
@pytest.mark.parametrize("given", [False, "false"])
def test_superset_without_the_guard_is_stock(
    config: Config, joined: list[object], given: Any
) -> None:
    found = config("celery_worker", superset_guard_enabled=given)
    assert not hasattr(found, "GLOBAL_ASYNC_QUERY_MANAGER_CLASS")
    wrapped = {
        name
        for each in found.CeleryConfig.task_annotations.values()
        for name in each
        if "@" in name
    }
    assert wrapped == set()
    found.FLASK_APP_MUTATOR(None)
    assert joined == []


def test_a_worker_that_waits_for_redis_is_not_taken_for_hung(config: Config) -> None:
    """Its event loop may wait twice: for an answer, and then while it closes the connection."""
    unit = templates.ROLES / "celery_worker/templates/celery-worker.service.j2"
    (limit,) = re.findall(r"^WatchdogSec=(\d+)$", unit.read_text(), re.MULTILINE)
    options = config("celery_worker").CeleryConfig.broker_transport_options
    assert 2 * options["socket_timeout"] < int(limit)


@pytest.mark.parametrize("given", [False, True])
def test_web_machines_say_whether_they_are_ready_with_and_without_the_guard(
    config: Config, joined: list[object], given: bool
) -> None:
    config(superset_guard_enabled=given).FLASK_APP_MUTATOR(None)
    assert joined[0] == "ready"


@pytest.mark.parametrize("service", ["admin", "celery_worker", "scheduler"])
def test_no_other_machine_says_whether_it_is_ready(
    config: Config, joined: list[object], service: str
) -> None:
    config(service).FLASK_APP_MUTATOR(None)
    assert "ready" not in joined


@pytest.mark.parametrize("service", ["admin", "celery_worker", "scheduler", "superset_web"])
def test_superset_with_the_guard_has_it_in_tasks_and_application(
    config: Config, joined: list[object], service: str
) -> None:
    found = config(service)
    for name in TASKS:
        task = found.CeleryConfig.task_annotations[name]
        assert task.keys() >= {"@apply_async", "@run"}
        assert (task["soft_time_limit"], task["time_limit"], task["rate_limit"]) == (
            3600,
            3660,
            None,
        )
    assert found.GLOBAL_ASYNC_QUERY_MANAGER_CLASS == "superset_fleet.guard.charts.Events"
    found.FLASK_APP_MUTATOR(None)
    assert joined[-1] is found.guard


def test_a_result_of_sql_lab_has_a_largest_size(config: Config) -> None:
    assert config().SQLLAB_PAYLOAD_MAX_MB == 200
    assert config(superset_result_max_mebibytes=50).SQLLAB_PAYLOAD_MAX_MB == 50


@pytest.mark.parametrize(("policy", "wake"), [("fail", False), ("wake", True)])
def test_a_query_waits_for_a_worker_where_the_policy_says_so(
    config: Config, policy: str, wake: bool
) -> None:
    assert config(superset_no_worker_policy=policy).guard.wake is wake


# -- Celery's services ----------------------------------------------------------------------------
@pytest.mark.parametrize("service", ["celery_worker", "superset_web"])
def test_each_service_listens_once(config: Config, listens: list[str], service: str) -> None:
    config(service)
    assert listens == [service]


@pytest.mark.parametrize("guarded", [False, True])
def test_the_guard_alone_counts_a_worker_s_slots(config: Config, guarded: bool) -> None:
    found = config("celery_worker", superset_guard_enabled=guarded).CeleryConfig
    assert found.worker_enable_prefetch_count_reduction != guarded


@pytest.mark.parametrize("guarded", [False, True])
def test_beat_itself_looks_for_due_reports(config: Config, guarded: bool) -> None:
    def annotated(service: str) -> Any:
        found = config(service, superset_guard_enabled=guarded).CeleryConfig
        return found.task_annotations.get("reports.scheduler")

    assert annotated("scheduler") == {"apply_async": hooks.look_for_due_reports}
    assert annotated("superset_web") is None


def test_a_query_says_which_service_runs_it(config: Config) -> None:
    signed = config("celery_worker").SQL_QUERY_MUTATOR("select 1", database=None)
    assert signed.startswith("-- superset celery_worker on ")


# -- What is switched on --------------------------------------------------------------------------
@pytest.mark.parametrize("given", [True, False, "true", "false"])
def test_web_machines_send_charts_to_workers_where_that_is_switched_on(
    config: Config, given: Any
) -> None:
    wanted = given in (True, "true")
    flags = config(superset_global_async_queries_enabled=given).FEATURE_FLAGS
    assert flags["GLOBAL_ASYNC_QUERIES"] is wanted
    flags = config("celery_worker", superset_global_async_queries_enabled=given).FEATURE_FLAGS
    assert flags["GLOBAL_ASYNC_QUERIES"] is True


@pytest.mark.parametrize(
    ("browser", "thumbnails", "flags"),
    [
        (True, True, (True, True)),
        (True, False, (True, False)),
        (False, True, (False, False)),
        ("false", "true", (False, False)),
    ],
)
def test_reports_and_thumbnails_are_there_where_a_browser_is(
    config: Config, browser: Any, thumbnails: Any, flags: tuple[bool, bool]
) -> None:
    found = config(superset_browser_enabled=browser, superset_thumbnails_enabled=thumbnails)
    assert (found.FEATURE_FLAGS["ALERT_REPORTS"], found.FEATURE_FLAGS["THUMBNAILS"]) == flags


def test_caches_are_warmed_up_where_that_is_wanted(config: Config) -> None:
    assert "cache-warmup" not in config().CeleryConfig.beat_schedule
    assert "cache-warmup" in config(superset_warmup_dashboards=5).CeleryConfig.beat_schedule


def test_each_cache_has_names_of_its_own(config: Config) -> None:
    found = config()
    caches = (found.CACHE_CONFIG, found.DATA_CACHE_CONFIG, found.THUMBNAIL_CACHE_CONFIG)
    assert [cache["CACHE_KEY_PREFIX"] for cache in caches] == [
        "superset_metadata_",
        "superset_data_",
        "superset_thumbnail_",
    ]


# -- Patience -------------------------------------------------------------------------------------
def test_a_user_learns_within_three_seconds_that_redis_hangs(config: Config) -> None:
    found = config()
    registry = found.guard.registry.redis.connection_pool.connection_kwargs["socket_timeout"]
    sent = found.CeleryConfig.broker_transport_options["socket_timeout"]
    tries = 1 + found.CeleryConfig.task_publish_retry_policy["max_retries"]
    limits = found.RATELIMIT_STORAGE_OPTIONS["socket_timeout"]
    # Each further try connects before.
    assert limits + registry + sent + (tries - 1) * 2 * sent < 3


@pytest.mark.parametrize("service", ["celery_worker", "scheduler"])
def test_who_has_no_user_waiting_sits_out_what_redis_and_the_database_need(
    config: Config, service: str
) -> None:
    found = config(service)
    assert found.CeleryConfig.broker_transport_options["socket_timeout"] == 10
    arguments = found.SQLALCHEMY_ENGINE_OPTIONS["connect_args"]
    assert arguments == {"application_name": f"superset {service}", **LIBPQ}


def test_a_web_process_looks_whether_its_silent_database_hangs(config: Config) -> None:
    arguments = config().SQLALCHEMY_ENGINE_OPTIONS["connect_args"]
    assert arguments["connection_factory"] is Metadata
    seconds = arguments["connect_timeout"], 2 * TIMES.look_seconds + TIMES.moment_seconds
    assert max(seconds) < 3


# -- What web machines do faster -------------------------------------------------------------------
def test_web_machines_log_actions_by_a_thread_and_keep_permissions(config: Config) -> None:
    found = config()
    assert found.EVENT_LOGGER == "by a thread"
    assert found.CUSTOM_SECURITY_MANAGER == ("keeps", None)


@pytest.mark.parametrize("service", ["admin", "celery_worker", "scheduler"])
def test_no_other_machine_does_so(config: Config, service: str) -> None:
    found = config(service)
    assert not hasattr(found, "EVENT_LOGGER")
    assert found.CUSTOM_SECURITY_MANAGER is None


def test_nor_does_a_web_machine_without_the_guard(config: Config) -> None:
    found = config(superset_guard_enabled=False)
    assert not hasattr(found, "EVENT_LOGGER")
    assert found.CUSTOM_SECURITY_MANAGER is None


def test_permissions_are_kept_whatever_manages_them_and_another_logger_stays(
    config: Config,
) -> None:
    found = config(overrides="CUSTOM_SECURITY_MANAGER = EVENT_LOGGER = 'theirs'\n")
    assert found.CUSTOM_SECURITY_MANAGER == ("keeps", "theirs")
    assert found.EVENT_LOGGER == "theirs"


# -- Overrides ------------------------------------------------------------------------------------
def test_the_overrides_change_settings_of_superset_and_of_celery(config: Config) -> None:
    found = config(
        overrides="FEATURE_FLAGS['ALERT_REPORTS'] = True\n"
        "CeleryConfig.worker_max_tasks_per_child = 7\n"
        "def SQL_QUERY_MUTATOR(sql, **_):\n    return 'theirs'\n"
    )
    assert found.FEATURE_FLAGS["ALERT_REPORTS"] is True
    assert found.CELERY_CONFIG.worker_max_tasks_per_child == 7
    assert found.SQL_QUERY_MUTATOR("select 1") == "theirs"


def test_a_mutator_of_the_overrides_comes_first_and_the_fleet_s_stays(
    config: Config, joined: list[object]
) -> None:
    found = config(overrides="def FLASK_APP_MUTATOR(app):\n    app.append('theirs')\n")
    found.FLASK_APP_MUTATOR(joined)
    assert joined == ["theirs", "ready", "bound", "limits", found.guard]


def test_a_mutator_of_connections_comes_first_and_the_fleet_s_stays(config: Config) -> None:
    url = make_url("postgresql://db/warehouse")
    theirs = "def DB_CONNECTION_MUTATOR(url, options, *_):\n"
    theirs += "    return url, {'connect_args': {'connect_timeout': 9}}\n"
    for overrides, seconds in (("", 5), ("DB_CONNECTION_MUTATOR = None\n", 5), (theirs, 9)):
        mutate = config("celery_worker", overrides).DB_CONNECTION_MUTATOR
        _, options = mutate(url, {}, "user", None, None)
        assert options["connect_args"] == {**LIBPQ, "connect_timeout": seconds}
    _, options = mutate(make_url("mysql://db/warehouse"), {}, "user", None, None)
    assert options["connect_args"] == {"connect_timeout": 9, "read_timeout": 3600}


def test_overrides_without_a_mutator_leave_the_fleet_s(
    config: Config, joined: list[object]
) -> None:
    found = config(overrides="FLASK_APP_MUTATOR = None\n")
    found.FLASK_APP_MUTATOR(None)
    assert joined == ["ready", "bound", "limits", found.guard]
