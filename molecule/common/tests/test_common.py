"""What every machine of the fleet has."""

testinfra_hosts = ["ansible://fleet"]


def test_the_journal_keeps_within_its_limit(host):
    settings = host.run("systemd-analyze cat-config systemd/journald.conf").stdout
    assert "SystemMaxUse=500M" in settings.splitlines()


def test_no_service_of_the_machine_has_failed(host):
    assert host.run("systemctl --failed --no-legend").stdout == ""


def test_every_service_of_the_fleet_is_hardened(host):
    patterns = "'fleet-*.service' 'celery-*.service' superset-web.service"
    listed = host.run(f"systemctl list-unit-files --no-legend {patterns}").stdout
    properties = "--property=NoNewPrivileges,ProtectSystem"
    for unit in [line.split()[0] for line in listed.splitlines()]:
        shown = host.check_output(f"systemctl show {properties} {unit}")
        assert set(shown.split()) == {"NoNewPrivileges=yes", "ProtectSystem=strict"}, unit
