"""What users and operators meet at the load balancer."""

import base64
import http.client
import ssl

import pytest

testinfra_hosts = ["ansible://haproxy"]

RUNTIME = """
import socket, sys
with socket.socket(socket.AF_UNIX) as runtime:
    runtime.connect("/run/haproxy/admin.sock")
    runtime.sendall(sys.argv[1].encode() + b"\\n")
    print(runtime.makefile().read())
"""


def basic(login):
    return "Basic " + base64.b64encode(login.encode()).decode()


@pytest.fixture
def https(fact):
    """Ask over HTTPS as a browser that trusts the fleet's CA and nothing else."""

    def ask(path, method="GET", **headers):
        trust = ssl.create_default_context(cadata=fact("haproxy_ca_certificate"))
        connection = http.client.HTTPSConnection(fact("haproxy_address"), context=trust)
        connection.request(method, path, headers=headers)
        return connection.getresponse()

    return ask


@pytest.fixture
def private(fact):
    """Ask the private port for statistics and metrics."""

    def ask(path, **headers):
        address, port = fact("haproxy_private_address"), fact("haproxy_stats_port")
        connection = http.client.HTTPConnection(address, port)
        connection.request("GET", path, headers=headers)
        return connection.getresponse()

    return ask


@pytest.fixture
def nobody_serves(host, fact):
    """Take every web instance out for the time of a test."""

    def put(state):
        servers = sorted(fact("haproxy_servers"))
        commands = [f"set server superset_web/{server} state {state}" for server in servers]
        with host.sudo():
            assert host.run("python3 -c %s %s", RUNTIME, ";".join(commands)).stdout.strip() == ""

    put("maint")
    yield
    put("ready")


def test_http_leads_to_https(fact):
    connection = http.client.HTTPConnection(fact("haproxy_address"))
    connection.request("GET", "/superset/welcome/?next=1")
    reply = connection.getresponse()
    assert reply.status == 308
    address = fact("haproxy_address")
    assert reply.headers["Location"] == f"https://{address}/superset/welcome/?next=1"


def test_the_certificate_is_valid_and_https_is_to_be_used_from_now_on(https):
    assert https("/health").headers["Strict-Transport-Security"] == "max-age=31536000"


@pytest.mark.filterwarnings("ignore:ssl.TLSVersion")
def test_old_tls_is_refused(fact):
    old = ssl.create_default_context(cadata=fact("haproxy_ca_certificate"))
    old.minimum_version = ssl.TLSVersion.TLSv1
    old.maximum_version = ssl.TLSVersion.TLSv1_1
    old.set_ciphers("DEFAULT@SECLEVEL=0")
    with pytest.raises(ssl.SSLError, match="ALERT_PROTOCOL_VERSION"):
        http.client.HTTPSConnection(fact("haproxy_address"), context=old).connect()


def test_a_page_that_looks_again_by_itself_appears_while_nobody_serves(nobody_serves, https):
    reply = https("/superset/welcome/")
    assert reply.status == 503
    assert reply.headers["Retry-After"] == "5"
    assert b'http-equiv="refresh"' in reply.read()


def test_the_statistics_need_the_password(private, fact):
    login = f"{fact('haproxy_stats_user')}:{fact('haproxy_stats_password')}"
    assert private("/").status == 401
    assert private("/", Authorization=basic("admin:wrong")).status == 401
    assert private("/", Authorization=basic(login)).status == 200


def test_the_metrics_name_every_web_instance(private, fact):
    metrics = private("/metrics").read().decode()
    for server in fact("haproxy_servers"):
        assert f'haproxy_server_status{{proxy="superset_web",server="{server}"' in metrics


def test_secrets_are_for_root_only(host):
    with host.sudo():
        for name in ("certificate.pem", "stats.credentials"):
            assert host.file(f"/etc/haproxy/{name}").mode == 0o600
