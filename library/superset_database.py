#!/usr/bin/python
"""Keep one of Superset's database connections as described."""

from __future__ import annotations

DOCUMENTATION = r"""
module: superset_database
short_description: Keep one of Superset's database connections as described
description:
  - Makes, changes or removes a connection to a database through Superset's REST API.
  - A property whose option is left out is not touched.
  - What is written is tried first, by Superset itself, from the web server that answers;
    a connection that does not work is refused, in check mode too.
  - The database's password is never returned or shown.
options:
  url:
    description: Address of Superset as its users have it, without a path.
    type: str
    required: true
  username:
    description: Superset user who may manage databases.
    type: str
    default: admin
  password:
    description: Password of O(username).
    type: str
    required: true
  ca_certificate:
    description:
      - PEM of the only certificate authority to trust.
      - When empty, those of the system are trusted.
    type: str
    default: ""
  state:
    description:
      - V(present) makes the connection as described, V(absent) removes it.
      - Superset refuses to remove a connection that still has datasets.
    type: str
    choices: [present, absent]
    default: present
  database_name:
    description: Name of the connection in Superset; what identifies it.
    type: str
    required: true
  sqlalchemy_uri:
    description:
      - Where the database is and as whom to log in, in SQLAlchemy's form, without the password.
      - Needed when O(state=present).
    type: str
  database_password:
    description:
      - Password of the user in O(sqlalchemy_uri), as it is; it need not be escaped.
      - When left out, a new connection has none, and an existing one keeps what it has.
    type: str
  update_password:
    description:
      - When to write O(database_password) to a connection that is there. Superset never tells the
        password that it holds, so there is nothing to compare with.
      - V(when_refused) lets Superset connect with the password that it holds, and writes the new
        one only if that fails. It takes a rotated password to be noticed, and needs the database.
      - V(always) writes it each time, and each time reports a change.
    type: str
    choices: [when_refused, always]
    default: when_refused
  expose_in_sqllab:
    description: Whether the connection can be chosen in SQL Lab.
    type: bool
  allow_run_async:
    description: Whether SQL Lab hands queries to the Celery workers.
    type: bool
  allow_ctas:
    description: Whether SQL Lab may make tables of results (CREATE TABLE AS).
    type: bool
  allow_cvas:
    description: Whether SQL Lab may make views of queries (CREATE VIEW AS).
    type: bool
  allow_dml:
    description: Whether SQL Lab may run statements that change data.
    type: bool
  allow_file_upload:
    description: Whether files may be loaded into this database.
    type: bool
  force_ctas_schema:
    description: Schema in which O(allow_ctas) and O(allow_cvas) must write.
    type: str
  cache_timeout:
    description: Seconds for which chart data of this database is cached; -1 for never.
    type: int
  extra:
    description:
      - Superset's further settings of a connection, for example C(engine_params) and
        C(schemas_allowed_for_file_upload).
      - Keys that are not named here are not touched.
    type: dict
author:
  - The superset-fleet project
"""

EXAMPLES = r"""
- name: Make the warehouse known to Superset
  superset_database:
    url: https://superset.example.com
    password: "{{ superset_admin_password }}"
    database_name: warehouse
    sqlalchemy_uri: postgresql+psycopg2://warehouse@10.0.1.7:5432/warehouse
    database_password: "{{ warehouse_password }}"
    expose_in_sqllab: true
    allow_run_async: true

- name: Remove a connection
  superset_database:
    url: https://superset.example.com
    password: "{{ superset_admin_password }}"
    database_name: old warehouse
    state: absent
"""

RETURN = r"""
id:
  description: Superset's id of the connection.
  returned: when the connection is there
  type: int
  sample: 1
properties:
  description: Properties written, or that check mode would have written.
  returned: always
  type: list
  elements: str
  sample: [allow_run_async, database_password]
"""

import json
from collections.abc import Iterable
from typing import Any
from urllib.parse import quote

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.superset_fleet.control.superset import (
    SESSION_OPTIONS,
    Superset,
    SupersetError,
)

# Superset shows this in place of a password, and keeps the password when it gets this back.
MASK = "X" * 10
PATH = "/api/v1/database/"
PROPERTIES: dict[str, dict[str, Any]] = {
    "sqlalchemy_uri": {"type": "str"},
    "expose_in_sqllab": {"type": "bool"},
    "allow_run_async": {"type": "bool"},
    "allow_ctas": {"type": "bool"},
    "allow_cvas": {"type": "bool"},
    "allow_dml": {"type": "bool"},
    "allow_file_upload": {"type": "bool"},
    "force_ctas_schema": {"type": "str"},
    "cache_timeout": {"type": "int"},
    "extra": {"type": "dict"},
}
Properties = dict[str, Any]


def with_password(uri: str, password: str | None) -> str:
    """Return the URI with the password put in, escaped."""
    scheme, _, rest = uri.partition("://")
    user, at, place = rest.rpartition("@")
    return f"{scheme}://{user}:{quote(password, safe='')}{at}{place}" if password else uri


def without_password(uri: str) -> str:
    """Return the URI as Superset shows it without its mask in place of the password."""
    return uri.replace(f":{MASK}@", "@", 1)


def fault(uri: str, password: str | None) -> str:
    """Return what is wrong with the way in which URI and password were given, or nothing."""
    scheme, _, rest = uri.partition("://")
    user, at, _ = rest.rpartition("@")
    if not scheme or not rest:
        return "sqlalchemy_uri is not of the form dialect+driver://user@host:port/database"
    if ":" in user:
        return "sqlalchemy_uri holds a password: move it to database_password"
    if password and not (user and at):
        return "sqlalchemy_uri names no user for database_password: write user@ before the host"
    return ""


def plan(current: Properties | None, wanted: Properties | None) -> tuple[str, Properties]:
    """Return the HTTP method and the properties that lead from current to wanted.

    None stands for no connection. Nothing to do: no method. Keys of `extra` that are not wanted
    stay; a property that is not wanted is not compared.
    """
    if wanted is None:
        return ("DELETE" if current else "", {})
    if current is None:
        return ("POST", wanted)
    if "extra" in wanted:
        wanted = {**wanted, "extra": {**current["extra"], **wanted["extra"]}}
    changes = {name: value for name, value in wanted.items() if current.get(name) != value}
    return ("PUT" if changes else "", changes)


def shown(properties: Properties | None, names: Iterable[str], password: str) -> Properties:
    """Return the named properties for a diff, with `password` in place of the password."""
    known = {name: properties[name] for name in names if name in properties} if properties else {}
    return {**known, "database_password": password} if "database_password" in known else known


def body(changes: Properties, wanted: Properties, stored_password: bool) -> Properties:
    """Return changes as Superset takes them: the password is a part of the URI, extra is text."""
    sent = {name: value for name, value in changes.items() if name != "database_password"}
    if {"sqlalchemy_uri", "database_password"} & changes.keys():
        password = wanted.get("database_password") or (MASK if stored_password else None)
        sent["sqlalchemy_uri"] = with_password(wanted["sqlalchemy_uri"], password)
    if "extra" in sent:
        sent["extra"] = json.dumps(sent["extra"])
    return sent


def connection_failure(superset: Superset, properties: Properties) -> SupersetError | None:
    """Let Superset connect to a database; return why it could not."""
    action = f"connect to database {properties['database_name']}"
    try:
        superset.ask(action, "POST", f"{PATH}test_connection/", properties)
    except SupersetError as error:
        # These are what the database said; any other status is about Superset itself.
        if error.status not in (400, 408, 422):
            raise
        return error
    return None


def read(
    superset: Superset, name: str, wanted: Properties | None, renew_password: bool
) -> Properties | None:
    """Return the connection's properties, or None where there is none.

    `database_password` is there only if a password is wanted: the wanted one if there is no need
    to write it, else None.
    """
    identity = superset.find_database(name)
    if identity is None:
        return None
    answer = superset.ask(f"read database {name}", "GET", f"{PATH}{identity}/connection")["result"]
    uri = without_password(answer["sqlalchemy_uri"])
    current = {key: answer.get(key) for key in PROPERTIES} | {
        "id": identity,
        "sqlalchemy_uri": uri,
        "extra": json.loads(answer["extra"] or "{}"),
        "stored_password": uri != answer["sqlalchemy_uri"],
    }
    if wanted and "database_password" in wanted:
        kept = not renew_password and uri == wanted["sqlalchemy_uri"]
        stored = {key: answer.get(key) for key in ("database_name", "sqlalchemy_uri", "extra")}
        if kept and not connection_failure(superset, stored):
            current["database_password"] = wanted["database_password"]
        else:
            current["database_password"] = None
    return current


def apply(
    superset: Superset, name: str, method: str, current: Properties | None, sent: Properties
) -> None:
    """Send the change."""
    verb = {"POST": "create", "PUT": "change", "DELETE": "remove"}[method]
    content = None if method == "DELETE" else {"database_name": name, **sent}
    superset.ask(
        f"{verb} database {name}", method, f"{PATH}{current['id'] if current else ''}", content
    )


def main() -> None:
    """Run the module."""
    module = AnsibleModule(
        argument_spec={
            **SESSION_OPTIONS,
            **PROPERTIES,
            "state": {"type": "str", "choices": ["present", "absent"], "default": "present"},
            "database_name": {"type": "str", "required": True},
            "database_password": {"type": "str", "no_log": True},
            "update_password": {
                "type": "str",
                "choices": ["when_refused", "always"],
                "default": "when_refused",
                "no_log": False,
            },
        },
        required_if=[("state", "present", ["sqlalchemy_uri"])],
        supports_check_mode=True,
    )
    given = {key: value for key, value in module.params.items() if value is not None}
    name = given["database_name"]
    wanted = None
    if given["state"] == "present":
        wanted = {key: given[key] for key in (*PROPERTIES, "database_password") if key in given}
        if wrong := fault(wanted["sqlalchemy_uri"], wanted.get("database_password")):
            module.fail_json(msg=f"database {name}: {wrong}")
    try:
        superset = Superset(given["url"], given["ca_certificate"])
        superset.log_in(given["username"], given["password"])
        current = read(superset, name, wanted, given["update_password"] == "always")
        method, changes = plan(current, wanted)
        sent = body(changes, wanted or {}, bool(current and current["stored_password"]))
        uri = sent.get("sqlalchemy_uri")
        if uri and MASK not in uri:
            extra = sent.get("extra") or json.dumps(current["extra"] if current else {})
            tried = {"database_name": name, "sqlalchemy_uri": uri, "extra": extra}
            if failure := connection_failure(superset, tried):
                raise failure
        after = current
        if method and not module.check_mode:
            apply(superset, name, method, current, sent)
            after = read(superset, name, wanted, renew_password=False)
            if left := plan(after, wanted)[0]:
                kept = shown(after, changes, "not as given")
                raise SupersetError(f"{left} database {name}", f"Superset kept this: {kept}")
    except SupersetError as error:
        module.fail_json(msg=str(error))
    module.exit_json(
        changed=bool(method),
        properties=sorted(changes),
        diff={
            "before": shown(current, changes if wanted else PROPERTIES, "another, or none"),
            "after": shown(changes, changes, "as given"),
        },
        **({"id": after["id"]} if wanted and after else {}),
    )


if __name__ == "__main__":
    main()
