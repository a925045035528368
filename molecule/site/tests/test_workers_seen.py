"""What users, probes and operators see of workers while they are there."""

from pathlib import Path
from typing import Any

import pytest
import requests
from support import Ask, banner


def test_anybody_sees_how_many_workers_take_queries(health: Ask, facts: dict[str, Any]) -> None:
    answer = health()
    assert answer.status_code == 200
    queue = answer.json()["queues"]["sql_lab"]
    assert queue["workers"] == facts["fleet_group_sizes"]["celery_worker"]
    assert queue["slots"] >= queue["workers"]
    assert queue["waiting"] == 0


def test_a_probe_may_ask_for_more_workers_than_there_are(health: Ask) -> None:
    assert health(queue="sql_lab", min=1).status_code == 200
    lacking = health(queue=["sql_lab", "no_such_queue"], min=1)
    assert lacking.status_code == 503
    assert lacking.json()["lacking"] == ["no_such_queue"]
    assert health(min=1000).status_code == 503
    assert health(min="many").status_code == 400


def test_every_web_machine_tells_the_same_over_plain_http(facts: dict[str, Any]) -> None:
    for endpoint in facts["superset_web_endpoints"].values():
        answer = requests.get(f"http://{endpoint}/fleet/health", timeout=30)
        assert answer.status_code == 200
        assert answer.json()["status"] == "ok"


@pytest.mark.parametrize("path", ["/fleet/metrics", "//fleet/metrics", "/%66leet/metrics?a=b"])
def test_users_are_not_given_the_metrics(stranger: requests.Session, url: str, path: str) -> None:
    request = stranger.prepare_request(requests.Request("GET", url))
    request.url = url + path  # as it is
    assert stranger.send(request, verify=stranger.verify, timeout=30).status_code == 404


def test_operators_are_given_the_metrics_at_the_private_port(facts: dict[str, Any]) -> None:
    private = f"http://{facts['haproxy_private_address']}:{facts['haproxy_stats_port']}"
    answer = requests.get(f"{private}/fleet/metrics", timeout=30)
    workers = facts["fleet_group_sizes"]["celery_worker"]
    assert f'superset_fleet_workers{{queue="sql_lab"}} {workers}' in answer.text.splitlines()


def test_no_banner_is_there_while_there_are_workers(url: str, tmp_path: Path) -> None:
    assert banner(url, tmp_path) == ""
