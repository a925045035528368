"""What the workers may rely on."""

import time

import pytest

testinfra_hosts = ["ansible://scheduler"]


@pytest.fixture(autouse=True)
def root(host):
    with host.sudo():
        yield


def test_publishes_the_task_of_every_minute(host):
    sent = "journalctl --unit celery-beat --since -70s --grep 'Sending due task reports.scheduler'"
    for _ in range(70):
        if host.run(sent).rc == 0:
            return
        time.sleep(1)
    pytest.fail("beat published nothing for more than a minute")


def test_keeps_what_it_has_sent_over_a_restart(host):
    host.check_output("systemctl restart celery-beat")
    assert host.file("/var/lib/celery-beat/schedule.db").user == "superset"


def test_starts_at_boot(host):
    service = host.service("celery-beat")
    assert service.is_running
    assert service.is_enabled
