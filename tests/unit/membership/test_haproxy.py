"""The client and the servers file, with a real HAProxy that has the role's configuration."""

import socket
import threading
from functools import partial
from pathlib import Path

import pytest

from superset_fleet.files import replace
from superset_fleet.membership.haproxy import Busy, HAProxy, HAProxyError, Server, Unreachable
from superset_fleet.membership.plan import rendered
from tests.support.haproxy_server import OPTIONS, Balancer, Load, Web, join_script
from tests.support.waiting import until


def add(haproxy: Balancer, name: str, address: str) -> None:
    haproxy.api.add(name, address, OPTIONS)
    haproxy.api.ready(name)


def test_a_server_comes_drains_and_goes(haproxy: Balancer, web: Web) -> None:
    api = haproxy.api
    assert api.servers() == {}
    api.add("i-1", web.endpoint, OPTIONS)
    assert api.servers()["i-1"].state == "maint"
    api.ready("i-1")
    assert api.servers() == {"i-1": Server(web.endpoint, "ready", True)}
    assert haproxy.get() == (200, f"served by {web.endpoint}")
    api.drain("i-1")
    assert api.servers()["i-1"].state == "drain"
    api.delete("i-1")
    assert api.servers() == {}


def test_an_added_server_is_checked(haproxy: Balancer, web: Web) -> None:
    add(haproxy, "i-1", web.endpoint)
    web.healthy = False
    until(lambda: not haproxy.api.servers()["i-1"].up, "HAProxy sees that the server is down")
    web.healthy = True
    until(lambda: haproxy.api.servers()["i-1"].up, "HAProxy sees that the server is up")


def test_a_server_is_not_deleted_under_a_request(haproxy: Balancer, web: Web) -> None:
    add(haproxy, "i-1", web.endpoint)
    answers: list[tuple[int, str]] = []
    user = threading.Thread(target=lambda: answers.append(haproxy.get("/slow")))
    user.start()
    until(lambda: web.paths["/slow"], "the request is served")
    haproxy.api.drain("i-1")
    assert haproxy.api.servers()["i-1"].sessions == 1
    with pytest.raises(Busy, match=r"delete superset_web/i-1: HAProxy says: .*connections"):
        haproxy.api.delete("i-1", wait_seconds=0)
    web.hold.set()
    haproxy.api.delete("i-1", wait_seconds=10)
    user.join()
    assert answers == [(200, f"served by {web.endpoint}")]


def test_only_workers_come_by_the_workers_port(haproxy: Balancer, web: Web) -> None:
    add(haproxy, "i-1", web.endpoint)
    assert haproxy.get()[0] == 200
    assert haproxy.get(port=haproxy.workers_port)[0] == 403


def test_static_files_bring_nobodys_session(haproxy: Balancer, web: Web) -> None:
    add(haproxy, "i-1", web.endpoint)
    assert haproxy.ask("/page")[0].getheader("Set-Cookie") == "session=nobody; Path=/"
    for _ in range(2):
        assert haproxy.ask("/static/kept.js")[0].getheader("Set-Cookie") is None
    assert web.paths["/static/kept.js"] == 1  # the second was kept


def test_a_file_of_another_release_is_found_where_it_is(haproxy: Balancer) -> None:
    webs = [Web() for _ in range(4)]
    for number, web in enumerate(webs):
        add(haproxy, f"i-{number}", web.endpoint)
        web.lacking = {"/static/assets/old.js", "/static/assets/none.js", "/page"}
    webs[-1].lacking = {"/static/assets/none.js", "/page"}
    for _ in webs:
        assert haproxy.get("/static/assets/old.js") == (200, f"served by {webs[-1].endpoint}")
    assert haproxy.get("/static/assets/none.js")[0] == 404
    assert haproxy.get("/page")[0] == 404
    assert sum(web.paths["/page"] for web in webs) == 1
    for web in webs:
        web.stop()


@pytest.mark.parametrize(
    ("name", "address", "options", "message"),
    [
        ("i-1", "10.0.0.1:80", "check", "add superset_web/i-1: HAProxy says: Already exists"),
        ("i-2", "10.0.0.1:80", "cookie x", "add superset_web/i-2: HAProxy says: 'cookie' option"),
        ("i-2", "localhost:80", "check", "add superset_web/i-2: 'localhost:80' is no address:port"),
        ("i-2", "10.0.0.1:80", "check;x", "add superset_web/i-2: 'check;x' are no options"),
        ("i 2;x", "10.0.0.1:80", "check", "'i 2;x' cannot be the name of a server"),
    ],
)
def test_an_error_names_action_server_and_reason(
    haproxy: Balancer, name: str, address: str, options: str, message: str
) -> None:
    haproxy.api.add("i-1", "10.0.0.1:80", "check")
    with pytest.raises(HAProxyError, match=message):
        haproxy.api.add(name, address, options)


def test_an_unknown_server_or_backend_is_an_error(haproxy: Balancer) -> None:
    with pytest.raises(HAProxyError, match="drain superset_web/i-9: HAProxy says: No such server"):
        haproxy.api.drain("i-9")
    with pytest.raises(HAProxyError, match="delete superset_web/i-9: HAProxy says: No such server"):
        haproxy.api.delete("i-9")
    with pytest.raises(HAProxyError, match="the servers of nope: HAProxy says: Can't find backend"):
        HAProxy(haproxy.socket, "nope").servers()


def test_where_haproxy_does_not_run_the_message_says_so(tmp_path: Path) -> None:
    with pytest.raises(Unreachable, match=r"nothing answers at .*: systemctl status haproxy"):
        HAProxy(str(tmp_path / "none.sock"), "superset_web").servers()


# Only what is used: 3.x has more columns, says more, and puts blank lines elsewhere.
NEWER = {
    "show servers state web": "1\n# srv_name srv_addr srv_port srv_new srv_op_state srv_admin_state"
    "\ni-1 fd00::1 80 x 2 8\ni-2 10.0.0.2 80 x 0 32\n",
    "show stat web 4 -1": "# pxname,svname,qcur,scur,new,\nweb,i-1,1,2,x,\n\n",
    "add server web/i-3 [fd00::3]:80 check": "\nNew server registered.\n\n",
    "set server web/i-1 state maint": "",
    "del server web/i-1": "Server deleted.\n\n\n",
}


def test_other_columns_and_blank_lines_of_newer_versions_are_no_matter(tmp_path: Path) -> None:
    """Answers written down here: no other version is at hand."""
    path = str(tmp_path / "runtime.sock")

    def answer(listening: socket.socket) -> None:
        for _ in NEWER:
            connection, _ = listening.accept()
            with connection:
                connection.sendall(NEWER[connection.recv(1000).decode().rstrip("\n")].encode())

    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(path)
        listening.listen()
        threading.Thread(target=answer, args=(listening,), daemon=True).start()
        api = HAProxy(path, "web")
        assert api.servers() == {
            "i-1": Server("[fd00::1]:80", "drain", True, 3),
            "i-2": Server("10.0.0.2:80", "maint", False),
        }
        api.add("i-3", "[fd00::3]:80", "check")
        api.delete("i-1")


# -- Over reload and restart ----------------------------------------------------------------------
def test_a_reload_and_a_restart_begin_with_the_servers_of_the_moment(
    haproxy: Balancer, web: Web
) -> None:
    add(haproxy, "i-1", web.endpoint)
    add(haproxy, "i-2", "127.0.0.1:1")
    until(lambda: not haproxy.api.servers()["i-2"].up, "HAProxy sees that i-2 is down")
    replace(haproxy.servers_file, rendered(haproxy.api.servers()))
    before = haproxy.api.servers()
    haproxy.reload()
    assert haproxy.api.servers() == before
    haproxy.stop()
    haproxy.start()
    assert haproxy.api.servers() == before
    assert haproxy.get() == (200, f"served by {web.endpoint}")


def test_servers_from_the_file_can_go_and_come_again(haproxy: Balancer, web: Web) -> None:
    replace(haproxy.servers_file, f"    server i-1 {web.endpoint}\n")
    haproxy.reload()
    haproxy.api.drain("i-1")
    haproxy.api.delete("i-1")
    add(haproxy, "i-1", web.endpoint)
    assert haproxy.get() == (200, f"served by {web.endpoint}")


def test_a_reload_without_the_file_of_servers_would_forget_them(
    haproxy: Balancer, web: Web
) -> None:
    add(haproxy, "i-1", web.endpoint)
    haproxy.reload()
    assert haproxy.api.servers() == {}


def test_a_configuration_that_haproxy_refuses_does_not_replace_the_one_that_works(
    haproxy: Balancer,
) -> None:
    works = haproxy.join.JOINED.read_text()
    haproxy.join.WRITTEN.write_text("nonsense\n")
    with pytest.raises(SystemExit, match=r"HAProxy refuses .* stays as it was"):
        haproxy.join.join()
    assert haproxy.join.JOINED.read_text() == works


def test_nothing_but_servers_is_taken_from_the_file_of_servers() -> None:
    servers = (
        "    server i-1 10.0.0.1:80\n"
        "    server i-2 10.0.0.1:80 check-via-socks4\n"
        "global\n"
        "    lua-load /tmp/x\n"
        "    server i-3\n"
        "    server i-4 [fd00::1]:80\n"
        "    server i-5 10.0.0.1:80"
    )
    join = join_script()
    assert join.joined(f"backend web\n{join.MARK}\nfrontend x\n", servers) == (
        "backend web\n    server i-1 10.0.0.1:80\n    server i-4 [fd00::1]:80\n\nfrontend x\n"
    )


def test_without_an_answer_no_state_is_kept_and_haproxy_starts_all_the_same(
    haproxy: Balancer, web: Web
) -> None:
    replace(haproxy.servers_file, f"    server i-1 {web.endpoint}\n")
    haproxy.join.SOCKET = "/nonexistent"
    haproxy.stop()
    haproxy.join.SOCKET = haproxy.socket
    haproxy.start()
    assert haproxy.in_use() == {"i-1": web.endpoint}


def idle(haproxy: Balancer, name: str) -> bool:
    return not haproxy.api.servers()[name].sessions


# -- Under load -----------------------------------------------------------------------------------
def test_no_request_is_lost_while_servers_come_and_go(haproxy: Balancer) -> None:
    webs = [Web() for _ in range(8)]
    add(haproxy, "i-0", webs[0].endpoint)
    with Load(haproxy.port) as load:
        for number in range(1, len(webs)):
            add(haproxy, f"i-{number}", webs[number].endpoint)
            load.more()
            leaver = f"i-{number - 1}"
            haproxy.api.drain(leaver)
            until(partial(idle, haproxy, leaver), "it is idle")
            haproxy.api.delete(leaver)
            webs[number - 1].stop()
            load.more()
    webs[-1].stop()
    assert load.failed == {}
    assert len(load.served) == len(webs)


def test_no_request_is_lost_by_reloads(haproxy: Balancer, web: Web) -> None:
    replace(haproxy.servers_file, f"    server i-1 {web.endpoint}\n")
    haproxy.reload()
    with Load(haproxy.port, users=16) as load:
        for _ in range(5):
            haproxy.reload()
            load.more(200)
    assert load.failed == {}


def test_the_load_notices_reloads_that_cut_connections(haproxy: Balancer, web: Web) -> None:
    """The counter-proof: HAProxy as it is without the role's option."""
    replace(haproxy.servers_file, f"    server i-1 {web.endpoint}\n")
    written = haproxy.join.WRITTEN.read_text()
    haproxy.join.WRITTEN.write_text(written.replace("option idle-close-on-response", ""))
    haproxy.reload()
    with Load(haproxy.port, users=16) as load:

        def noticed() -> bool:
            haproxy.reload()
            load.more(200)
            return bool(load.failed)

        until(noticed, "the load notices a reload")
    assert set(load.failed) <= {"RemoteDisconnected", "ConnectionResetError"}


def test_the_load_notices_a_server_that_is_killed(haproxy: Balancer) -> None:
    """The counter-proof: what is above is not a load that sees nothing."""
    victim, other = Web(), Web()
    add(haproxy, "i-1", victim.endpoint)
    with Load(haproxy.port) as load:
        victim.holding = ("POST",)  # what HAProxy sends no second time
        until(lambda: victim.held["POST"], "requests are being served")
        add(haproxy, "i-2", other.endpoint)
        victim.kill()
        load.more()
    other.stop()
    assert set(load.failed) == {"status 502"}
    assert load.failed.total() <= 8  # what was in flight, one of each user
