"""Preflight: what is refused, and what is said."""

from pathlib import Path
from typing import Any

import fleet_preflight
import pytest

from superset_fleet.control import preflight
from superset_fleet.roles import FLEET, ROLES

SETTINGS = {
    "superset_webserver_timeout_seconds": 60,
    "superset_web_timeout_seconds": 120,
    "haproxy_server_timeout_seconds": 150,
    "haproxy_keepalive_seconds": 60,
    "superset_web_keepalive_seconds": 75,
    "haproxy_notice_seconds": 6,
    "superset_web_drain_seconds": 8,
    "superset_web_graceful_timeout_seconds": 90,
    "superset_web_stop_timeout_seconds": 100,
    "superset_query_timeout_seconds": 3600,
    "superset_query_hard_timeout_seconds": 3660,
    "celery_worker_stop_timeout_seconds": 3720,
    "fleet_leave_timeout_seconds": 260,
    "fleet_leave_longest_seconds": 26000,
    "superset_visibility_timeout_seconds": 4560,
    "superset_results_ttl_seconds": 86400,
    "superset_web_processes": 2,
    "superset_web_threads": 8,
    "superset_web_max_overflow": 4,
    "celery_worker_concurrency": 2,
    "celery_worker_pool_size": 2,
    "celery_worker_max_overflow": 2,
    "postgres_max_connections": 300,
    "postgres_reserved_connections": 10,
    "fleet_surge": 1,
}
MACHINES = {"superset_web": 4, "celery_worker": 4, "scheduler": 2}
SIZES = {**dict.fromkeys(ROLES, 1), FLEET: len(ROLES)}


def test_the_defaults_pass() -> None:
    assert preflight.violations(SETTINGS, MACHINES) == []


def test_every_setting_is_compared() -> None:
    assert set(preflight.SETTINGS) == set(SETTINGS)


@pytest.mark.parametrize(
    ("changed", "names"),
    [
        (
            {"superset_webserver_timeout_seconds": 120},
            ("superset_webserver_timeout_seconds (120)", "superset_web_timeout_seconds (120)"),
        ),
        (
            {"haproxy_server_timeout_seconds": 120},
            ("superset_web_timeout_seconds (120)", "haproxy_server_timeout_seconds (120)"),
        ),
        (
            {"haproxy_keepalive_seconds": 75},
            ("haproxy_keepalive_seconds (75)", "superset_web_keepalive_seconds (75)"),
        ),
        (
            {"haproxy_notice_seconds": 8},
            ("haproxy_notice_seconds (8)", "superset_web_drain_seconds (8)"),
        ),
        (
            {"superset_web_drain_seconds": 100},
            ("superset_web_drain_seconds (100)", "superset_web_stop_timeout_seconds (100)"),
        ),
        (
            {"superset_web_stop_timeout_seconds": 90},
            (
                "superset_web_graceful_timeout_seconds (90)",
                "superset_web_stop_timeout_seconds (90)",
            ),
        ),
        (
            {"superset_query_timeout_seconds": 3601},
            (
                "superset_query_timeout_seconds (3601)",
                "superset_query_hard_timeout_seconds (3660)",
            ),
        ),
        (
            {"celery_worker_stop_timeout_seconds": 3660},
            (
                "superset_query_hard_timeout_seconds (3660)",
                "celery_worker_stop_timeout_seconds (3660)",
            ),
        ),
        (
            {"fleet_leave_longest_seconds": 3779},
            ("celery_worker_stop_timeout_seconds (3720)", "fleet_leave_longest_seconds (3779)"),
        ),
        (
            {"fleet_leave_timeout_seconds": 159},
            ("superset_web_stop_timeout_seconds (100)", "fleet_leave_timeout_seconds (159)"),
        ),
        (
            {"superset_visibility_timeout_seconds": 3660},
            (
                "superset_query_hard_timeout_seconds (3660)",
                "superset_visibility_timeout_seconds (3660)",
            ),
        ),
        (
            {"superset_results_ttl_seconds": 3660},
            ("superset_query_hard_timeout_seconds (3660)", "superset_results_ttl_seconds (3660)"),
        ),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_each_step_of_the_ladder_names_both_variables_and_their_values(
    changed: dict[str, int], names: tuple[str, str]
) -> None:
    (sentence,) = preflight.violations(SETTINGS | changed, MACHINES)
    assert all(name in sentence for name in names)
    assert "Raise" in sentence


def test_a_step_may_be_as_small_as_its_margin() -> None:
    smallest = {"haproxy_server_timeout_seconds": 121, "superset_web_keepalive_seconds": 61}
    assert preflight.violations(SETTINGS | smallest, MACHINES) == []


@pytest.mark.parametrize(
    "changed",
    [
        {"superset_web_processes": 4},
        {"superset_web_threads": 20},
        {"superset_web_max_overflow": 20},
        {"celery_worker_concurrency": 10},
        {"celery_worker_pool_size": 20},
        {"celery_worker_max_overflow": 20},
        {"fleet_surge": 4},
        {"postgres_max_connections": 207},
        {"postgres_reserved_connections": 113},
    ],
    ids=lambda changed: next(iter(changed)),
)
def test_more_connections_than_postgresql_takes_are_refused(changed: dict[str, int]) -> None:
    (sentence,) = preflight.violations(SETTINGS | changed, MACHINES)
    assert "connections to the metadata database" in sentence
    assert all(name in sentence for name in changed)


def test_the_connections_of_the_largest_fleet_may_be_used_up() -> None:
    # 5 web machines with 2 * 13, 5 workers with 3 * 4, 3 schedulers with 4 + 2.
    exact = {"postgres_max_connections": 208 + 10}
    assert preflight.violations(SETTINGS | exact, MACHINES) == []
    (sentence,) = preflight.violations(SETTINGS | {"postgres_max_connections": 217}, MACHINES)
    assert "208 connections" in sentence
    assert "Raise postgres_max_connections to 218" in sentence


@pytest.mark.parametrize("group", MACHINES)
def test_the_connections_of_every_group_count(group: str) -> None:
    (sentence,) = preflight.violations(SETTINGS, MACHINES | {group: 100})
    assert f"101 {group}" in sentence


def test_numbers_given_as_text_count_and_others_are_refused() -> None:
    text = {"haproxy_server_timeout_seconds": "150"}
    assert preflight.violations(SETTINGS | text, MACHINES) == []
    words = {"haproxy_server_timeout_seconds": "2m"}
    (sentence,) = preflight.violations(SETTINGS | words, MACHINES)
    assert sentence.startswith("haproxy_server_timeout_seconds is '2m'")


def test_a_setting_that_is_missing_is_named() -> None:
    rest = {name: value for name, value in SETTINGS.items() if name != "fleet_surge"}
    assert preflight.violations(rest, MACHINES) == [
        "fleet_surge is not set: it must be a whole number."
    ]


@pytest.mark.parametrize("group", ROLES)
def test_an_empty_group_is_named_with_the_remedy(group: str) -> None:
    sizes = {name: size for name, size in SIZES.items() if name != group}
    (cloud,) = preflight.empty_groups(sizes, "", cloud=True)
    (plain,) = preflight.empty_groups({**sizes, group: 0}, "", cloud=False)
    assert group in cloud
    assert "provision.yml" in cloud
    assert group in plain
    assert "inventory" in plain


def test_an_inventory_whose_groups_have_no_parent_is_refused() -> None:
    assert preflight.empty_groups(SIZES, "", cloud=False) == []
    (sentence,) = preflight.empty_groups({**SIZES, FLEET: 0}, "", cloud=False)
    assert sentence.startswith("group fleet has no machine: make it the parent")


def test_postgresql_may_be_elsewhere() -> None:
    sizes = {**SIZES, "postgres": 0}
    assert preflight.empty_groups(sizes, "db.example.com", cloud=True) == []
    assert "postgres_address" in preflight.empty_groups(sizes, "", cloud=True)[0]


def test_a_role_whose_groups_may_all_be_empty_needs_no_machine() -> None:
    groups: dict[str, dict[str, Any]] = {
        "celery_worker": {"min": 0, "desired": 0, "max": 4},
        "superset_web": {"min": 0, "desired": 0, "max": 4},
        "more": {"role": "superset_web", "min": 1, "desired": 1, "max": 4},
    }
    idle = preflight.idle_roles(groups)
    (said,) = preflight.empty_groups(
        {**SIZES, "celery_worker": 0, "superset_web": 0}, "", cloud=True, idle=idle
    )
    assert said.startswith("group superset_web has no machine")


def group(**values: Any) -> dict[str, Any]:
    return {"min": 0, "desired": 1, "max": 2, **values}


@pytest.mark.parametrize(
    ("groups", "said"),
    [
        ({"celery_workers": group()}, "celery_workers has role celery_workers"),
        ({"celery_worker": group(desired=3)}, "min 0, desired 3, max 2"),
        ({"superset_web": group(scaling="scaler")}, "only groups of workers have these"),
        ({"superset_web": group(queues=["sql_lab"])}, "only groups of workers have these"),
        ({"celery_worker": group(scaling="policy")}, "one of scaler, cloud, none"),
    ],
)
def test_a_faulty_group_is_named_with_what_is_wrong(
    groups: dict[str, dict[str, Any]], said: str
) -> None:
    (found,) = preflight.faulty_groups(groups)
    assert said in found


def test_groups_of_workers_may_have_queues_and_somebody_who_scales_them() -> None:
    reports = group(role="celery_worker", queues=["reports"], scaling="cloud")
    groups = {"celery_worker": group(), "celery_worker_reports": reports, "scheduler": group()}
    assert preflight.faulty_groups(groups) == []
    assert preflight.takers(groups, ["sql_lab"]) == {
        "celery_worker": ["sql_lab"],
        "celery_worker_reports": ["reports"],
    }


def test_a_group_that_has_no_room_for_a_machine_takes_nothing() -> None:
    assert preflight.takers({"celery_worker": group(max=0)}, ["sql_lab"]) == {}


QUERIES = ["sql_lab", "charts", "warmup", "default"]


def test_groups_that_lose_their_last_worker_for_good_are_refused() -> None:
    some = group(min=1)
    charts = group(role="celery_worker", queues=["charts"])
    (found,) = preflight.never_woken({"celery_worker": some, "more": charts}, ["sql_lab"], "fail")
    assert found.startswith("fleet_groups: more may have no machine (min: 0)")
    assert "superset_no_worker_policy: wake" in found
    assert preflight.never_woken({"celery_worker": some, "more": charts}, QUERIES, "fail") == []
    assert preflight.never_woken({"celery_worker": group()}, QUERIES, "wake") == []
    assert preflight.never_woken({"celery_worker": group(scaling="none")}, QUERIES, "fail") == []


def test_a_queue_of_every_kind_is_needed() -> None:
    (found,) = preflight.misplaced_queues({"worker-1": ["sql_lab", "charts", "default"]}, False, 2)
    assert found.startswith("no worker takes tasks from the queue warmup")


def test_a_machine_without_chromium_does_not_serve_reports_unknowingly() -> None:
    (found,) = preflight.misplaced_queues({"worker-1": [*QUERIES, "reports"]}, False, 2)
    assert found.startswith("worker-1 takes tasks from reports, which need Chromium")
    assert "superset_browser_enabled: true" in found


def test_reports_that_nobody_would_take_are_noticed() -> None:
    found = preflight.misplaced_queues({"celery_worker": QUERIES}, True, 2)
    assert [sentence.partition(":")[0] for sentence in found] == [
        "no worker takes tasks from the queue reports",
        "no worker takes tasks from the queue thumbnails",
    ]


def test_reports_beside_queries_need_a_second_slot() -> None:
    everything = {"worker-1": [*QUERIES, "reports", "thumbnails"]}
    (found,) = preflight.misplaced_queues(everything, True, 1)
    assert "raise celery_worker_concurrency to 2" in found
    assert preflight.misplaced_queues(everything, True, 2) == []
    apart = {"queries": QUERIES, "reports": ["reports", "thumbnails"]}
    assert preflight.misplaced_queues(apart, True, 1) == []


def test_a_queue_that_nothing_is_sent_to_is_named() -> None:
    (found,) = preflight.misplaced_queues({"worker-1": [*QUERIES, "sqllab"]}, False, 2)
    assert found.startswith("worker-1 takes tasks from sqllab, which nothing is sent to")


def test_missing_and_empty_secrets_are_named_with_the_remedy() -> None:
    needed = {"vault_a", "vault_b", "vault_c"}
    found = preflight.missing_secrets(needed, ["vault_b", "vault_c"], ["vault_b"], cloud=True)
    assert [sentence.split()[1] for sentence in found] == ["vault_a", "vault_b"]
    assert all("provision.yml" in sentence for sentence in found)
    (plain,) = preflight.missing_secrets({"vault_a"}, [], [], cloud=False)
    assert "ansible-vault" in plain


def test_a_misspelt_variable_is_answered_with_the_closest_name() -> None:
    known = ["haproxy_server_timeout_seconds", "haproxy_keepalive_seconds"]
    names = ["haproxy_sever_timeout_seconds", "haproxy_x", "mine", "haproxy_keepalive_seconds"]
    assert preflight.unknown_variables(names, known, ["haproxy_"]) == [
        "variable haproxy_sever_timeout_seconds is read by nothing in the fleet:"
        " did you mean haproxy_server_timeout_seconds?",
        "variable haproxy_x is read by nothing in the fleet: remove it.",
    ]


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A checkout of one role."""
    files = {
        "roles/redis/meta/argument_specs.yml": (
            "argument_specs: {main: {options: {redis_port: {type: int}}}}"
        ),
        "roles/redis/templates/redis.conf.j2": "bind {{ redis_address }}  # not redis_comment",
        "inventory/group_vars/all/redis.yml": (
            "redis_password: '{{ vault_redis_password }}'\nredis_prot: 1\nredis_address: a\n"
        ),
        "inventory/group_vars/aws/vault.yml": "$ANSIBLE_VAULT;1.1;AES256\n6162\n",
        "inventory/host_vars/one.yml": "redis_comment: 2\nvault_redis_passwort: !vault x\n",
    }
    for name, text in files.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return tmp_path


def options(project: Path) -> dict[str, Any]:
    return {
        "project": str(project),
        "settings": SETTINGS,
        "group_sizes": {**SIZES, **MACHINES},
        "group_limits": {},
        "queues": QUERIES,
        "machine_queues": {"worker-1": QUERIES},
        "no_worker_policy": "fail",
        "browser": False,
        "postgres_address": "",
        "names": ["vault_redis_password", "redis_port", "redis_sort", "inventory_dir"],
        "inventories": [str(project / "inventory")],
        "empty_secrets": [],
    }


def test_variables_exist_where_a_role_or_another_variable_reads_them(project: Path) -> None:
    unknown = [sentence.split()[1] for sentence in fleet_preflight.findings(options(project))]
    # Defined beside the inventory or given on the command line, and read by nothing.
    assert unknown == [
        "redis_comment",
        "redis_password",
        "redis_prot",
        "redis_sort",
        "vault_redis_passwort",
    ]


def test_everything_that_is_wrong_is_found_at_once(project: Path) -> None:
    broken = options(project) | {
        "names": [],
        "inventories": [],
        "settings": SETTINGS | {"haproxy_keepalive_seconds": 100},
        "group_sizes": {},
        "group_limits": {"superset_web": {"min": 60, "desired": 50, "max": 50}},
    }
    found = " ".join(fleet_preflight.findings(broken))
    words = ("group haproxy", "vault_redis_password", "keepalive", "51 superset_web", "min 60")
    assert [word for word in (*words, "queue sql_lab") if word not in found] == []


def test_the_machines_of_all_worker_groups_open_connections(project: Path) -> None:
    size = {"min": 1, "desired": 1}
    groups = {
        "celery_worker": {**size, "max": 10},
        "celery_worker_reports": {**size, "max": 20, "role": "celery_worker"},
    }
    found = fleet_preflight.findings(options(project) | {"group_limits": groups})
    assert "31 celery_worker with 12 each" in " ".join(found)


def test_the_default_of_a_role_counts_where_nothing_else_is_given(project: Path) -> None:
    defaults = project / "roles/redis/defaults/main.yml"
    defaults.parent.mkdir()
    defaults.write_text("haproxy_keepalive_seconds: 100\nfleet_surge: 90\n")
    settings = {name: SETTINGS[name] for name in SETTINGS if name != "haproxy_keepalive_seconds"}
    (found,) = [
        sentence
        for sentence in fleet_preflight.findings(options(project) | {"settings": settings})
        if "must be" in sentence
    ]
    assert "haproxy_keepalive_seconds (100)" in found


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("fleetd_removable_share", "membership_removable_share"),
        ("superset_guard_reruns", "watchdog_reruns"),
        ("superset_worker_wake_timeout_seconds", "watchdog_wake_timeout_seconds"),
    ],
)
def test_a_variable_of_an_earlier_version_is_named_with_its_new_name(old: str, new: str) -> None:
    known = {"superset_web_timeout_seconds", new}
    (said,) = preflight.unknown_variables([old], known, ["superset_", "fleetd_"])
    assert said == f"variable {old} is read by nothing in the fleet: rename it to {new}."


def test_a_value_of_an_earlier_version_is_named_with_its_new_value() -> None:
    (said,) = preflight.former_values({"haproxy_membership": "fleetd"})
    assert said == "haproxy_membership (fleetd): its value fleetd is daemon now."
    assert preflight.former_values({"haproxy_membership": "daemon"}) == []
