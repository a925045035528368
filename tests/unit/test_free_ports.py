"""free_ports: who listens, and whether it may."""

from free_ports import Listener, parse, strangers, unit_of

SS = """\
LISTEN 0 511 127.0.0.1:6379 0.0.0.0:* users:(("redis-server",pid=71,fd=6))
LISTEN 0 128 [::]:22 [::]:* users:(("sshd",pid=55,fd=4),("systemd",pid=1,fd=9))
LISTEN 0 64 *:2049 *:*
"""


def test_every_process_of_a_port_is_seen() -> None:
    assert parse(SS) == [(6379, "redis-server", 71), (22, "sshd", 55), (22, "systemd", 1)]


def test_the_unit_of_a_process_is_read_from_either_kind_of_cgroup() -> None:
    v1 = "9:memory:/\n1:name=systemd:/system.slice/system-redis.slice/redis-server@cache.service\n"
    assert unit_of(v1) == "redis-server@cache.service"
    assert unit_of("0::/user.slice/user-0.slice/session-1.scope\n") == "session-1.scope"
    assert unit_of("0::/\n") == ""


def test_a_unit_may_have_its_own_port() -> None:
    own = Listener(8088, "gunicorn", 5, "superset-web.service")
    assert strangers([own], {"superset-web.service": [8088]}) == []


def test_a_stranger_is_named_with_port_and_remedy() -> None:
    (sentence,) = strangers([Listener(8088, "nc", 7, "")], {"superset-web.service": [8088]})
    assert "port 8088" in sentence
    assert "process nc (pid 7)" in sentence
    assert "stop that process" in sentence


def test_ports_that_nobody_asked_for_are_nobody_s_business() -> None:
    assert strangers([Listener(22, "sshd", 7, "ssh.service")], {"a.service": [80]}) == []
