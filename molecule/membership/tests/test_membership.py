"""fleet-membership on the load balancer: HAProxy has the machines of the group, and keeps them."""

import http.client

testinfra_hosts = ["ansible://haproxy"]

SERVERS = "/var/lib/haproxy-membership/servers.cfg"


def names(told):
    return sorted(server["name"] for server in told["servers"] if server["state"] == "ready")


def test_the_service_runs_and_starts_at_boot(host):
    service = host.service("fleet-membership")
    assert service.is_running
    assert service.is_enabled


def test_haproxy_has_the_machines_of_the_group_and_nothing_is_left_to_do(told, fact):
    state = told()
    assert names(state) == sorted(fact("haproxy_servers"))
    assert state["steps"] == []


def test_the_servers_outlast_a_reload_and_a_restart(host, told):
    before = told()["servers"]
    for verb in ("reload", "restart"):
        with host.sudo():
            host.check_output("systemctl %s haproxy", verb)
        assert told()["servers"] == before


def test_servers_that_haproxy_lost_are_there_again(host, told):
    before = told()
    name = before["servers"][0]["name"]
    with host.sudo():
        host.check_output("truncate --size 0 %s", SERVERS)
        host.check_output("systemctl restart haproxy")
        wait = "timeout 30 sh -c 'until grep -q %s %s; do sleep 0.2; done'"
        host.check_output(wait, name, SERVERS)
    assert names(told()) == names(before)


def test_the_metrics_are_at_the_private_port(fact):
    address, port = fact("haproxy_private_address"), fact("haproxy_stats_port")
    connection = http.client.HTTPConnection(address, port)
    connection.request("GET", "/membership/metrics")
    metrics = connection.getresponse().read().decode()
    ready = f'superset_fleet_membership_servers{{state="ready"}} {len(fact("haproxy_servers"))}\n'
    assert ready in metrics


def test_the_credentials_are_for_root_only(host):
    with host.sudo():
        assert host.file("/etc/fleet/aws.ini").mode == 0o600
