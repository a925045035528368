"""haproxy_rotation: which servers of a real HAProxy get requests, and why others do not."""

from haproxy_rotation import lacking

from superset_fleet.membership.haproxy import HAProxy
from tests.support.haproxy_server import BACKEND, OPTIONS, Balancer, Web
from tests.support.waiting import until


def test_a_server_gets_requests_once_it_is_told_to_and_passes_its_checks(
    haproxy: Balancer, web: Web
) -> None:
    runtime = HAProxy(haproxy.socket, BACKEND)
    assert lacking(["web-1"], runtime.servers()) == ["web-1 is not in the backend"]
    runtime.add("web-1", web.endpoint, OPTIONS)
    assert lacking(["web-1"], runtime.servers()) == ["web-1 is told to maint"]
    runtime.ready("web-1")
    until(lambda: not lacking(["web-1"], runtime.servers()), "web-1 gets requests")
    web.healthy = False
    until(lambda: lacking(["web-1"], runtime.servers()), "web-1 fails its check")
    assert "does not pass its checks" in lacking(["web-1"], runtime.servers())[0]
