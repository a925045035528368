"""Reports, thumbnails, warm caches: what their users get, and what queries do not notice of it."""

from __future__ import annotations

import base64
import json
import pickle
import struct
import time
from collections.abc import Callable
from typing import Any

import pytest
import redis

from tests.support.deployed.fleet import WORKER, Fleet, operator, wait
from tests.support.deployed.groups import BOOT_SECONDS, LEAVE_SECONDS, Group, localcloud
from tests.support.deployed.machines import Machine
from tests.support.deployed.users import User

Ask = Callable[..., Any]
BEGAN = int(time.time())
PICTURE_SECONDS = 240  # beside a fleet on two processors
THUMBNAILS = "superset_thumbnail_*"
CELERY = (
    "SUPERSET_CONFIG_PATH=/etc/superset/superset_config.py "
    "SUPERSET_FACTS=/etc/superset/facts.json "
    "/opt/superset/venv/bin/celery --app superset.tasks.celery_app:app "
)


def call(machine: Machine, task: str, *arguments: Any) -> str:
    """Send a task to the queue that it belongs to, and return its id."""
    said: str = machine.run(f"{CELERY} call {task} --args '{json.dumps(arguments)}' 2>/dev/null")
    return said.splitlines()[-1]


def journal(machines: list[Machine], words: str) -> str:
    """Return the lines of workers that say something, since these tests began."""
    command = f"journalctl --quiet --unit {WORKER} --since @{BEGAN} --grep '{words}' || true"
    return "".join(machine.run(command) for machine in machines)


def thumbnail_cache(fleet: Fleet) -> Any:
    """Return the Redis of pictures."""
    server = fleet.facts["superset_facts"]["redis"]["cache"]
    return redis.Redis(server["host"], server["port"], password=server["password"])


def thumbnails(fleet: Fleet) -> dict[bytes, bytes]:
    """Return the pictures in the cache, as Superset's cache keeps them."""
    cache = thumbnail_cache(fleet)
    kept = {key: cache.get(key) for key in cache.scan_iter(THUMBNAILS)}
    payloads = {key: pickle.loads(value[1:]) for key, value in kept.items() if value}
    return {key: base64.b64decode(one["image"]) for key, one in payloads.items() if one["image"]}


# While the report waits for its minute.
@pytest.mark.usefixtures("report")
def test_a_chart_has_a_thumbnail(
    fleet: Fleet, user: User, browser_machine: Machine, chart: dict[str, Any]
) -> None:
    before = set(thumbnails(fleet))
    task = call(browser_machine, "cache_chart_thumbnail", user.username, chart["id"], True)
    wait(
        "the thumbnail is made",
        lambda: journal([browser_machine], f"{task}.* succeeded"),
        PICTURE_SECONDS,
    )
    (made,) = set(thumbnails(fleet)) - before
    data = thumbnails(fleet)[made]
    assert data.startswith(b"\x89PNG\r\n\x1a\n")
    width, height = struct.unpack(">II", data[16:24])
    assert width == 800  # Superset's thumbnails are as wide, and as high as the chart then is
    assert 300 < height <= 600
    assert len(data) > 3_000  # white alone is smaller


def test_workers_themselves_stay_as_confined_as_before(browser_machine: Machine) -> None:
    shown = browser_machine.run(
        f"systemctl show --property NoNewPrivileges,RestrictNamespaces,DropInPaths {WORKER}"
    )
    assert set(shown.splitlines()) == {
        "NoNewPrivileges=yes",
        "RestrictNamespaces=yes",
        "DropInPaths=/etc/systemd/system/celery-.service.d/10-hardening.conf",
    }


def test_who_takes_queries_takes_no_reports(fleet: Fleet, browser_machine: Machine) -> None:
    takers = {worker.host: set(worker.queues) for worker in fleet.takers()}
    assert takers[browser_machine.host] == {"reports", "thumbnails"}
    for host, queues in takers.items():
        assert host == browser_machine.host or not queues & {"reports", "thumbnails"}


def test_a_warm_cache_answers_the_first_who_asks_for_what_was_visited(
    ask: Ask, fleet: Fleet, another_chart: dict[str, Any], dashboard: int
) -> None:
    ask("GET", f"dashboard/{dashboard}")
    workers = fleet.of("celery_worker")
    call(workers[0], "cache-warmup", "top_n_dashboards", 100)  # as beat does by the schedule
    fetched = rf'"chart_id": {another_chart["id"]}.*status code: 200'
    wait("the chart is warm", lambda: journal(workers, fetched), 120)
    (answer,) = ask("POST", "chart/data", another_chart["data"])["result"]
    assert answer["is_cached"], answer
    assert {row["origin"] for row in answer["data"]} == {"EWR", "JFK", "LGA"}


def test_workers_come_in_by_a_way_of_their_own(fleet: Fleet) -> None:
    url = fleet.facts["superset_url_for_workers"]
    headers = fleet.one("celery_worker").run(f"curl -sS -D - -o /dev/null {url}/login/")
    (cookie,) = [line for line in headers.splitlines() if line.startswith("set-cookie: session=")]
    assert "Secure" not in cookie
    assert "HttpOnly" in cookie


def test_a_report_is_made_when_it_is_due(ask: Ask, report: int) -> None:
    def ended() -> list[Any]:
        log = ask("GET", f"report/{report}/log/")["result"]
        return [entry for entry in log if entry["state"] in ("Success", "Error")]

    entry = wait("the report has ended", ended, 60 + PICTURE_SECONDS)[0]
    assert entry["state"] == "Success", entry["error_message"]
    ask("PUT", f"report/{report}", {"active": False})


def test_no_worker_is_asked_whether_reports_are_due(fleet: Fleet) -> None:
    """Beat looks itself: that alone would keep a group of workers from having no machine."""
    assert not journal(fleet.of("celery_worker"), r"reports\.scheduler.*received")
    looked = journal_of_beats(fleet)
    assert "reports.scheduler" in looked
    assert "Signal handler" not in looked


def journal_of_beats(fleet: Fleet) -> str:
    command = "journalctl --quiet --unit celery-beat --since -3min"
    return "".join(machine.run(command) for machine in fleet.of("scheduler"))


def test_a_browser_has_sandboxes_and_no_secret(browser_machine: Machine, user: User) -> None:
    # A session that asks for nothing: what systemd starts for it is what is looked at.
    looked = browser_machine.run(
        """cat > /run/browse.py <<'PYTHON'
import subprocess
from selenium.webdriver import chrome
options = chrome.options.Options()
options.add_argument("--headless")
service = chrome.service.Service(executable_path="/usr/local/bin/superset-browser")
driver = chrome.webdriver.WebDriver(options=options, service=service)
driver.get("chrome://sandbox")
print(driver.find_element("tag name", "body").text)
print(subprocess.run(["systemctl", "list-units", "--plain", "--no-legend", "superset-browser@*"],
                     capture_output=True, text=True).stdout)
print(subprocess.run(["sh", "-c", "ps -eo user:20,args | grep [c]hromium/chromium"],
                     capture_output=True, text=True).stdout)
driver.quit()
PYTHON
/opt/superset/venv/bin/python /run/browse.py"""
    )
    assert "You are adequately sandboxed." in looked
    assert "superset-browser@" in looked
    assert "--no-sandbox" not in looked
    owners = {line.split()[0] for line in looked.splitlines() if "chromium/chromium" in line}
    assert owners
    assert not owners & {"root", "superset"}
    wait(
        "the browser is gone",
        lambda: not browser_machine.run("pgrep chromium || true"),
        30,
    )


def test_what_a_machine_died_with_brings_another_one_and_queries_do_not_notice_that_it_waits(
    fleet: Fleet,
    group: Group,
    user: User,
    browser_machine: Machine,
    another_chart: dict[str, Any],
) -> None:
    task = "cache_chart_thumbnail", "thumbnails", user.username, another_chart["id"], True
    tasks = [fleet.publish(*task) for _ in range(6)]
    begin = time.monotonic()
    query = user.send("select 1 as one")
    user.wait([query], 30)
    assert query.status == "success"
    assert time.monotonic() - begin < 20
    # Those that wait are no more; one of those that are made is the one that matters.
    fleet.broker.delete("thumbnails")
    taken = wait(
        "a task is taken",
        lambda: [task for task in tasks if task in fleet.unconfirmed()],
        PICTURE_SECONDS,
    )
    browser_machine.signal(WORKER, "STOP")
    localcloud("kill", browser_machine.name)
    group.want(0)
    wait("nobody takes reports", lambda: not group.members("InService"), LEAVE_SECONDS)
    cache = thumbnail_cache(fleet)
    cache.delete(*cache.scan_iter(THUMBNAILS))
    # As if all of the visibility time-out had passed, which is more than an hour.
    for tag, text in fleet.broker.hgetall("unacked").items():
        if any(task in text.decode() for task in taken):
            fleet.broker.zadd("unacked_index", {tag: 0})
    status, said = operator("scale", "--release")
    assert status == 0, said
    wait("the thumbnail is made", lambda: thumbnails(fleet), BOOT_SECONDS + PICTURE_SECONDS)
