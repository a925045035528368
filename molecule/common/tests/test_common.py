"""What every machine of the fleet has."""

testinfra_hosts = ["ansible://fleet"]


def test_the_journal_keeps_within_its_limit(host):
    settings = host.run("systemd-analyze cat-config systemd/journald.conf").stdout
    assert "SystemMaxUse=500M" in settings.splitlines()


def test_no_service_of_the_machine_has_failed(host):
    assert host.run("systemctl --failed --no-legend").stdout == ""
