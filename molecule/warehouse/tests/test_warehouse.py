"""What users and the fleet's tests find in the sample warehouse."""

import pytest

from superset_fleet.control.ask import AnsibleFailed, run_module

testinfra_hosts = ["ansible://postgres"]


def ask(query):
    """Return the rows of a query, sent over the network by the warehouse's user."""
    arguments = {
        "login_host": "{{ postgres_address }}",
        "login_port": "{{ postgres_port }}",
        "login_db": "{{ warehouse_database }}",
        "login_user": "{{ warehouse_user }}",
        "login_password": "{{ warehouse_password }}",
        "query": query,
    }
    results = run_module("postgres", "community.postgresql.postgresql_query", arguments)
    return next(iter(results.values()))["query_result"]


def test_every_flight_of_2013_is_there():
    assert ask("select count(*) as flights from flights") == [{"flights": 336776}]


def test_flights_can_be_joined_with_what_they_refer_to():
    rows = ask(
        "select a.name, count(*) as flights from flights f join airlines a using (carrier)"
        " join planes using (tailnum) group by 1 order by 2 desc limit 1"
    )
    assert rows == [{"name": "United Air Lines Inc.", "flights": 56972}]


def test_a_slow_query_takes_as_long_as_it_is_told():
    (row,) = ask(
        "select warehouse.slow(1.5) as slept, clock_timestamp() - now() >= '1.5 s' as waited"
    )
    assert row == {"slept": 1.5, "waited": True}


def test_the_data_cannot_be_changed():
    with pytest.raises(AnsibleFailed, match="permission denied for table flights"):
        ask("delete from flights")


def test_there_is_room_for_scratch_tables():
    assert ask(
        "create table scratch.probe as select 1 as number; insert into scratch.probe values (2);"
        " create temporary table mine as select sum(number) as total from scratch.probe;"
        " drop table scratch.probe; select total from mine"
    ) == [{"total": 3}]
