"""Templates of the services."""

import os
import re
import shlex
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.support import templates

Render = Callable[..., list[str]]
NOBODY = 65534  # Debian's user and group of that name


@pytest.fixture
def render() -> Render:
    def render(role: str, template: str, **inputs: Any) -> list[str]:
        text = templates.render(role, template, **inputs)
        return [line.strip() for line in text.splitlines()]

    return render


@pytest.fixture
def haproxy(render: Render) -> Render:
    def haproxy(**inputs: Any) -> list[str]:
        given = {
            "haproxy_membership": "playbook",
            "haproxy_check_path": "/ready",
            "haproxy_certificate": "",
            "haproxy_server_timeout_seconds": 150,
            "haproxy_keepalive_seconds": 60,
            "haproxy_private_address": "10.0.0.5",
            "haproxy_workers_port": 8090,
            "haproxy_workers_networks": ["10.0.0.0/24", "10.0.1.7/32"],
            "haproxy_stats_port": 8404,
        }
        return render("haproxy", "haproxy.cfg.j2", **given | inputs)

    return haproxy


def test_without_a_certificate_haproxy_speaks_http_only(haproxy: Render) -> None:
    cfg = haproxy()
    assert [line for line in cfg if line.startswith("bind")] == [
        "bind :80",
        "bind 10.0.0.5:8090",
        "bind abns@balance accept-proxy",
        "bind 10.0.0.5:8404",
    ]
    assert not [line for line in cfg if "redirect" in line or "Strict-Transport" in line]


def test_with_a_certificate_http_leads_to_https(haproxy: Render) -> None:
    cfg = haproxy(haproxy_certificate="PEM")
    (redirect,) = [line for line in cfg if "redirect" in line]
    assert redirect == (
        "http-request redirect scheme https code 308 unless { ssl_fc } || { dst_port 8090 }"
    )
    assert "PEM" not in "".join(cfg)


def test_workers_come_in_plain_http_and_can_keep_their_session(haproxy: Render) -> None:
    cfg = haproxy(haproxy_certificate="PEM")
    assert "bind 10.0.0.5:8090" in cfg
    assert "http-request deny if { dst_port 8090 } !{ src 10.0.0.0/24 10.0.1.7/32 }" in cfg
    cookies, static = [line for line in cfg if "Set-Cookie" in line]
    assert static == "http-response del-header Set-Cookie if { var(txn.static) -m bool }"
    assert cookies.endswith("if { dst_port 8090 }")
    pattern, replacement = re.findall(r'"([^"]+)"', cookies)
    session = re.sub(pattern, replacement, "session=x; Secure; HttpOnly; Path=/; SameSite=Lax")
    assert session == "session=x; HttpOnly; Path=/; SameSite=Lax"


def test_only_requests_that_change_nothing_are_ever_repeated(haproxy: Render) -> None:
    cfg = haproxy()
    assert "option http-server-close" in cfg
    assert [line for line in cfg if "retry" in line] == [
        "retry-on conn-failure 404",
        "http-request disable-l7-retry unless METH_GET { path_beg /static/assets/ }",
        "retry-on conn-failure empty-response",
        "http-request disable-l7-retry unless METH_GET",
    ]


def test_web_instances_are_asked_whether_they_are_to_have_requests(haproxy: Render) -> None:
    assert "http-check send meth GET uri /ready" in haproxy()


@pytest.fixture
def stopped(render: Render) -> Iterator[Callable[[], Path]]:
    """Run what a web server's unit does before it stops; return its runtime directory."""
    unit = render(
        "superset_web",
        "superset-web.service.j2",
        superset_web_threads=8,
        superset_web_max_overflow=4,
        superset_web_drain_seconds=0,
        superset_web_stop_timeout_seconds=100,
    )
    (stop,) = [line for line in unit if line.startswith("ExecStop=")]
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name, "superset-web")
        directory.mkdir()
        if os.getuid() == 0:  # as the service's user, who may not touch what is root's
            os.chown(name, NOBODY, NOBODY)
            os.chown(directory, NOBODY, NOBODY)

        def run() -> Path:
            words = shlex.split(stop.removeprefix("ExecStop=").replace("%t", name))
            user = NOBODY if os.getuid() == 0 else None
            subprocess.run(words, env={"MAINPID": "1"}, user=user, check=True)
            return directory

        yield run


def test_a_web_server_that_stops_drains_first(stopped: Callable[[], Path]) -> None:
    assert (stopped() / "draining").exists()


def test_so_does_one_that_an_operator_drains_already(stopped: Callable[[], Path]) -> None:
    file = stopped() / "draining"
    file.unlink()
    file.touch(mode=0o444)  # by root, where tests are root
    assert stopped() / "draining" == file


@pytest.mark.parametrize(
    ("role", "unit"),
    [
        ("superset_web", "superset-web.service.j2"),
        ("celery_worker", "celery-worker.service.j2"),
    ],
)
def test_a_service_outlives_a_process_of_its_own_that_takes_too_much_memory(
    role: str, unit: str
) -> None:
    lines = templates.render(
        role,
        unit,
        superset_web_threads=8,
        superset_web_max_overflow=4,
        superset_web_drain_seconds=8,
        superset_web_stop_timeout_seconds=100,
        celery_worker_concurrency=2,
        celery_worker_pool_size=2,
        celery_worker_max_overflow=2,
        celery_worker_stop_timeout_seconds=3720,
        celery_worker_queues=["sql_lab"],
        superset_guard_enabled=True,
        **{f"{role}_memory_percent": 70},
    ).splitlines()
    assert {"MemoryMax=70%", "OOMPolicy=continue"} <= set(lines)


def worker_unit(render: Render, guarded: bool = True) -> list[str]:
    return render(
        "celery_worker",
        "celery-worker.service.j2",
        celery_worker_concurrency=2,
        celery_worker_pool_size=2,
        celery_worker_max_overflow=2,
        celery_worker_stop_timeout_seconds=3720,
        celery_worker_queues=["sql_lab", "default"],
        superset_guard_enabled=guarded,
    )


def test_a_hung_worker_is_killed_and_started_again_where_the_guard_says_that_it_lives(
    render: Render,
) -> None:
    unit = worker_unit(render)
    assert {"WatchdogSec=25", "WatchdogSignal=SIGKILL", "Restart=on-failure"} <= {*unit}
    assert not [line for line in worker_unit(render, guarded=False) if "Watchdog" in line]


def test_a_worker_takes_from_all_queues_unless_its_machine_says_which(render: Render) -> None:
    unit = worker_unit(render)
    every = unit.index("Environment=CELERY_WORKER_QUEUES=sql_lab,default")
    # Of two that name the same variable systemd takes the file.
    assert every < unit.index("EnvironmentFile=-/etc/fleet/machine.env")
    assert [line for line in unit if "--queues ${CELERY_WORKER_QUEUES}" in line]


def hardened(unit: str) -> bool:
    """Tell whether the drop-in counts for a unit: it lies at its name, or at how that begins."""
    variables = yaml.safe_load((templates.ROLES / "common" / "vars" / "main.yml").read_text())
    kind = unit.rpartition(".")[2]
    names = [Path(path).name.removesuffix(f".{kind}.d") for path in variables["__common_hardened"]]
    return any(
        unit == f"{name}.{kind}" or (name.endswith("-") and unit.startswith(name)) for name in names
    )


SERVICES = {path.stem: path for path in templates.ROLES.glob("*/templates/*.service.j2")}


# A browser has a sandbox of its own.
@pytest.mark.parametrize("unit", sorted(SERVICES.keys() - {"superset-browser@.service"}))
def test_what_hardens_services_is_said_once_for_all(unit: str, render: Render) -> None:
    assert hardened(unit)
    lines = [line for line in render("common", "hardening.conf.j2") if "=" in line]
    directives = {line.partition("=")[0] for line in lines}
    assert "NoNewPrivileges" in directives
    assert {
        line.partition("=")[0] for line in SERVICES[unit].read_text().splitlines()
    } & directives == set()


def test_whoever_tells_systemd_of_itself_is_watched_except_gunicorn() -> None:
    """It says when it is ready, and not that it lives."""
    units = {unit: path.read_text() for unit, path in SERVICES.items()}
    telling = {unit for unit, text in units.items() if "\nType=notify\n" in text}
    assert len(telling) > 5
    assert {unit for unit in telling if "\nWatchdogSec=" not in units[unit]} == {
        "superset-web.service"
    }


def test_a_browser_is_no_part_of_a_worker_s_sandbox(render: Render) -> None:
    browser = render("celery_worker", "superset-browser@.service.j2")
    assert hardened("celery-worker.service") and not hardened("superset-browser@.service")
    assert "RestrictNamespaces=true" in render("common", "hardening.conf.j2")
    assert "DynamicUser=true" in browser
    assert not [line for line in browser if "LoadCredential" in line or "no-sandbox" in line]


@pytest.mark.parametrize(("policy", "timeout"), [("fail", 0), ("wake", 300)])
def test_the_watchdog_has_the_limits_of_queries(render: Render, policy: str, timeout: int) -> None:
    unit = render(
        "watchdog",
        "fleet-watchdog.service.j2",
        superset_query_hard_timeout_seconds=3660,
        watchdog_reruns=1,
        superset_no_worker_policy=policy,
        watchdog_wake_timeout_seconds=300,
    )
    assert "--time-limit 3660 --reruns 1 \\" in unit
    assert f"--wake-timeout {timeout}" in unit
    assert "LoadCredential=facts:/etc/superset/facts.json" in unit


def test_users_of_postgres_come_from_the_named_networks_to_their_databases(render: Render) -> None:
    users = [
        {"name": "superset", "databases": ["superset"]},
        {"name": "reader", "databases": ["warehouse", "superset"]},
    ]
    networks = ["10.0.0.0/20", "fd00::/64"]
    hba = render("postgres", "pg_hba.conf.j2", postgres_users=users, postgres_networks=networks)
    assert [line for line in hba if line and not line.startswith("#")] == [
        "local all postgres peer",
        "host superset superset 10.0.0.0/20 scram-sha-256",
        "host superset superset fd00::/64 scram-sha-256",
        "host warehouse,superset reader 10.0.0.0/20 scram-sha-256",
        "host warehouse,superset reader fd00::/64 scram-sha-256",
    ]


def test_settings_of_postgres_are_quoted_and_in_order(render: Render) -> None:
    conf = render(
        "postgres",
        "fleet.conf.j2",
        postgres_listen_addresses=["localhost", "10.0.0.9"],
        postgres_max_connections=300,
        postgres_reserved_connections=10,
        postgres_settings={"work_mem": "16MB", "shared_buffers": "1GB"},
    )
    assert "listen_addresses = 'localhost,10.0.0.9'" in conf
    assert [line for line in conf if line][-2:] == ["shared_buffers = '1GB'", "work_mem = '16MB'"]


def redis_instance(name: str, render: Render) -> list[str]:
    settings = yaml.safe_load((templates.ROLES / "redis" / "vars" / "main.yml").read_text())
    inputs = {"port": 6379, "password": "secret", "memory_mb": 64, "policy": "volatile-ttl"}
    return render(
        "redis",
        "redis.conf.j2",
        redis_bind_addresses=["127.0.0.1", "10.0.0.9"],
        __redis_name=name,
        __redis_instance=settings["__redis_instances"][name] | inputs,
    )


def test_redis_listens_on_every_address_it_is_given(render: Render) -> None:
    assert "bind 127.0.0.1 10.0.0.9" in redis_instance("results", render)


@pytest.mark.parametrize(
    ("name", "lines"),
    [
        ("coordination", ["appendonly yes", "appendfsync everysec", 'save ""']),
        ("results", ["save 3600 1"]),
        ("cache", ['save ""']),
    ],
)
def test_each_redis_is_on_disk_as_far_as_its_data_is_worth(
    render: Render, name: str, lines: list[str]
) -> None:
    assert redis_instance(name, render)[-len(lines) :] == lines


def test_the_scaler_starts_where_the_cloud_gives_no_configuration(render: Render) -> None:
    given = {"scaler_slots": 2, "superset_visibility_timeout_seconds": 4560}
    unit = render("scaler", "fleet-scaler.service.j2", **given)
    assert "LoadCredential=aws.ini:/etc/fleet/aws.ini" in unit
    # For systemd a file that is missing is an error, but for this.
    assert "SetCredential=aws.ini:none" in unit
    assert "--visibility-timeout 4560 \\" in unit
    assert "--acceptable-wait 10 --cooldown 60" in unit
