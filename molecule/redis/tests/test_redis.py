"""What Superset and Celery may rely on, seen over the network."""

import pytest
import redis

testinfra_hosts = ["ansible://redis"]
INSTANCES = ["coordination", "results", "cache"]
MEGABYTE = 1024 * 1024


@pytest.fixture
def connect(fact):
    def connect(instance, **login):
        login = {"password": fact(f"redis_{instance}_password")} | login
        return redis.Redis(fact("redis_address"), fact(f"redis_{instance}_port"), **login)

    return connect


@pytest.fixture
def fill(connect):
    """Write twice as much as an instance may hold; afterwards what was written is gone."""
    written = {}

    def fill(instance, lifetimes=(None,)):
        client = written[instance] = connect(instance)
        for number in range(2 * client.info("memory")["maxmemory"] // (8 * MEGABYTE)):
            lifetime = lifetimes[number % len(lifetimes)]
            client.set(f"probe:{lifetime}:{number}", bytes(8 * MEGABYTE), ex=lifetime)
        return client

    yield fill
    for client in written.values():
        client.delete("probe", *client.scan_iter("probe:*"))


@pytest.mark.parametrize("instance", INSTANCES)
def test_reachable_with_the_password_where_the_inventory_says(connect, instance):
    assert connect(instance).ping()


@pytest.mark.parametrize("instance", INSTANCES)
def test_strangers_are_refused(connect, instance):
    with pytest.raises(redis.AuthenticationError):
        connect(instance, password=None).ping()
    with pytest.raises(redis.AuthenticationError):
        connect(instance, password="wrong").ping()


def test_coordination_refuses_writes_at_its_ceiling_and_loses_nothing(connect, fill):
    client = connect("coordination")
    client.delete("probe")
    client.lpush("probe", "a queued query")
    evicted = client.info("stats")["evicted_keys"]
    with pytest.raises(redis.OutOfMemoryError):
        fill("coordination")
    assert client.lrange("probe", 0, -1) == [b"a queued query"]
    assert client.info("stats")["evicted_keys"] == evicted


def test_results_that_would_expire_first_make_room_for_others(fill):
    client = fill("results", lifetimes=(600, 86400))
    soon, late = (len(list(client.scan_iter(f"probe:{life}:*"))) for life in (600, 86400))
    assert soon < late


def test_the_cache_always_takes_new_entries(fill):
    client = fill("cache")
    assert client.info("stats")["evicted_keys"] > 0


def test_a_restart_loses_no_queued_task_and_no_result(host, connect):
    for instance in INSTANCES:
        connect(instance).set("probe", instance, ex=600)
    with host.sudo():
        for instance in INSTANCES:
            assert host.run("systemctl restart redis-server@%s", instance).rc == 0
    kept = [connect(instance).getdel("probe") for instance in INSTANCES]
    assert kept == [b"coordination", b"results", None]


def test_the_three_start_at_boot_and_debian_s_own_does_not(host):
    assert all(host.service(f"redis-server@{instance}").is_enabled for instance in INSTANCES)
    assert not host.service("redis-server").is_enabled
    assert not host.service("redis-server").is_running
