"""What Superset's machines may rely on, seen over the network."""

import pytest

from superset_fleet.control.ask import AnsibleFailed, run_module

testinfra_hosts = ["ansible://postgres"]


def ask(query, **login):
    """Log in as Superset does, unless told otherwise, and return the rows of a query."""
    arguments = {
        "login_host": "{{ postgres_address }}",
        "login_port": "{{ postgres_port }}",
        "login_db": "superset",
        "login_user": "superset",
        "login_password": "{{ superset_database_password }}",
        "query": query,
    }
    results = run_module("postgres", "community.postgresql.postgresql_query", arguments | login)
    return next(iter(results.values()))["query_result"]


def test_superset_logs_in_and_may_make_its_tables():
    ask("create table probe (number int); drop table probe")


def test_a_wrong_password_is_refused():
    with pytest.raises(AnsibleFailed, match="password authentication failed"):
        ask("select 1", login_password="wrong")


def test_a_network_that_is_not_named_is_refused():
    with pytest.raises(AnsibleFailed, match=r"no pg_hba\.conf entry"):
        ask("select 1", login_host="127.0.0.1")


def test_a_user_is_kept_to_its_own_databases():
    with pytest.raises(AnsibleFailed, match=r"no pg_hba\.conf entry"):
        ask("select 1", login_user="warehouse", login_password="{{ warehouse_password }}")


def test_as_many_connections_are_allowed_as_the_preflight_counts_on(fact):
    setting = "select current_setting('{}')::int as value"
    for name, variable in [
        ("max_connections", "postgres_max_connections"),
        ("superuser_reserved_connections", "postgres_reserved_connections"),
    ]:
        assert ask(setting.format(name)) == [{"value": fact(variable)}]


def test_the_server_starts_at_boot(host):
    assert host.service("postgresql@15-main").is_enabled
    assert host.service("postgresql@15-main").is_running
