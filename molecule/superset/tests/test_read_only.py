"""Which SQL the guard calls reading: only that is ever run twice."""

import json
import shlex

testinfra_hosts = ["ansible://scheduler"]

READS = [
    "select 1",
    "select origin, count(*) from flights group by 1; select 2;",
    "with a as (select 1) select * from a union select 2",
    "set statement_timeout = 5; select 1",
    "select 'insert into t values (1)'",
    "-- delete\nselect 1 /* drop table t */",
]
CHANGES_OR_NOBODY_KNOWS = [
    "insert into t values (1)",
    "update t set a = 1",
    "delete from t",
    "truncate t",
    "merge into t using s on t.a = s.a when matched then delete",
    "create table t as select 1",
    "create view v as select 1",
    "drop table t",
    "alter table t add a int",
    "select 1; drop table t",
    "select * into t from flights",
    "with gone as (delete from t returning *) select * from gone",
    "explain analyze delete from t",
    "copy t from '/etc/passwd'",
    "call change()",
    "do $$ begin delete from t; end $$",
    "lock table t",
    "show search_path",
    "vacuum",
    "refresh materialized view v",
    "this is ((no SQL",
]
PROGRAM = """
import json, sys
from superset.app import create_app
with create_app().app_context():
    from superset_fleet.guard.run import is_read_only
    print(json.dumps([is_read_only(sql, "postgresql") for sql in json.loads(sys.argv[1])]))
"""


def test_only_what_surely_reads_is_called_reading(host):
    environment = "SUPERSET_CONFIG_PATH=/etc/superset/superset_config.py"
    environment += " SUPERSET_FACTS=/etc/superset/facts.json"
    statements = READS + CHANGES_OR_NOBODY_KNOWS
    words = ["/opt/superset/venv/bin/python", "-c", PROGRAM, json.dumps(statements)]
    with host.sudo():
        shown = host.check_output(f"{environment} {shlex.join(words)} 2>/dev/null")
    reading = dict(zip(statements, json.loads(shown.splitlines()[-1]), strict=True))
    assert [sql for sql, reads in reading.items() if reads] == READS
