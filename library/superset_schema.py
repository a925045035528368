#!/usr/bin/python
"""Ansible module: the metadata database is at the release that is installed here."""

from __future__ import annotations

DOCUMENTATION = r"""
module: superset_schema
short_description: Schema, roles and admin account of Superset
description:
  - Brings the metadata database to the release that is installed on the host, which is
    migrations, permissions and roles (C(superset init)), and one account with the role Admin.
  - Permissions and roles are written again when the release, its configuration or its overrides
    are others than those they were written for, which a comment on the table C(ab_role) tells.
  - An account that exists is left alone, so a password that was changed stays.
  - Runs at once from several places wait for each other.
options:
  admin_username:
    description: Name of the account.
    type: str
    required: true
  admin_password:
    description: Its password when it is made.
    type: str
    required: true
  facts:
    description: File with the address and the password of the metadata database.
    type: path
    default: /etc/superset/facts.json
  config:
    description: Directory of C(superset_config.py) and C(superset_config_overrides.py).
    type: path
    default: /etc/superset
  user:
    description: System user that Superset's code runs as.
    type: str
    default: superset
requirements: [flask_migrate, psycopg2, superset]
attributes:
  check_mode:
    support: full
  diff_mode:
    support: full
"""

EXAMPLES = r"""
- name: Bring the metadata database to this release
  superset_schema:
    admin_username: admin
    admin_password: "{{ superset_admin_password }}"
  vars:
    ansible_python_interpreter: /opt/superset/venv/bin/python
"""

RETURN = r"""
steps:
  description: What was done, or would be, in order.
  returned: success
  type: list
  elements: str
  sample: [migrate, init, admin]
"""

import hashlib
import importlib.metadata
import json
import os
import pwd
import sys
import tempfile
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.superset_fleet.guard.migrations import SchemaError, installed_revisions

LOCK = 0x5353_0001  # any number that nobody else uses in this database
LOCK_TIMEOUT = "15min"


@dataclass(frozen=True)
class State:
    """The metadata database in three words; None is what it is before anything was done."""

    revision: str | None
    init: str | None
    admin: str | None


def plan(current: State, wanted: State) -> list[str]:
    """Return the steps from the current state to the wanted one, in order."""
    steps = []
    if current.revision != wanted.revision:
        steps.append("migrate")
    if steps or current.init != wanted.init:
        steps.append("init")
    if current.admin != wanted.admin:
        steps.append("admin")
    return steps


def release(config: Path) -> str:
    """Return what permissions depend on: the release, its configuration and the overrides."""
    digest = hashlib.sha1(usedforsecurity=False)
    for name in ("superset_config.py", "superset_config_overrides.py"):
        digest.update((config / name).read_bytes())
    return f"{importlib.metadata.version('apache-superset')} {digest.hexdigest()[:12]}"


def connect(database: dict[str, Any]) -> Any:
    """Return a connection in autocommit mode, which does not stand in the way of migrations."""
    import psycopg2

    where = "{name} at {host}:{port} as {user}".format(**database)
    try:
        connection = psycopg2.connect(
            host=database["host"],
            port=database["port"],
            dbname=database["name"],
            user=database["user"],
            password=database["password"],
            connect_timeout=10,
            application_name="superset schema",
        )
    except psycopg2.OperationalError as error:
        raise SchemaError(
            f"connect to the metadata database {where}: {str(error).splitlines()[0]}; see "
            "that PostgreSQL runs there and that the facts have its address and password"
        ) from error
    connection.autocommit = True
    return connection


def lock(connection: Any) -> None:
    """Wait until nobody else migrates; the lock goes with the connection."""
    import psycopg2

    with connection.cursor() as cursor:
        cursor.execute("select set_config('lock_timeout', %s, false)", (LOCK_TIMEOUT,))
        try:
            cursor.execute("select pg_advisory_lock(%s)", (LOCK,))
        except psycopg2.errors.LockNotAvailable as error:
            raise SchemaError(
                f"lock the metadata database: another migration has run for {LOCK_TIMEOUT}; "
                "see pg_stat_activity for the application 'superset schema'"
            ) from error


def read(connection: Any, username: str) -> State:
    """Return the state of the metadata database, also of an empty one."""
    queries = {
        "revision": ("alembic_version", "select version_num from alembic_version"),
        "init": ("ab_role", "select obj_description('ab_role'::regclass)"),
        "admin": (
            "ab_user",
            "select username from ab_user where username = %(username)s",
        ),
    }
    state: dict[str, str | None] = {}
    with connection.cursor() as cursor:
        for name, (table, query) in queries.items():
            cursor.execute("select to_regclass(%s)", (table,))
            if cursor.fetchone()[0] is None:
                state[name] = None
                continue
            cursor.execute(query, {"username": username})
            row = cursor.fetchone()
            state[name] = row[0] if row else None
    return State(**state)


def read_facts(path: str) -> dict[str, Any]:
    """Return what is in the facts file."""
    try:
        facts: dict[str, Any] = json.loads(Path(path).read_text())
    except (OSError, ValueError) as error:
        raise SchemaError(
            f"read the facts file {path}: {error}; the role superset writes it"
        ) from error
    return facts


@contextmanager
def credentials(facts: dict[str, Any], user: str) -> Iterator[Path]:
    """Yield a directory with the facts as systemd would give it to a unit of the user."""
    owner = pwd.getpwnam(user)
    with tempfile.TemporaryDirectory(dir="/run", prefix="superset-schema-") as name:
        path = Path(name) / "facts"
        path.touch(mode=0o400)
        path.write_text(json.dumps(facts))
        for item in (path, path.parent):
            os.chown(item, owner.pw_uid, owner.pw_gid)
        yield path.parent


def become(user: str, environment: dict[str, str]) -> None:
    """Turn this process into one of the user, with nothing of the caller's environment."""
    owner = pwd.getpwnam(user)
    os.setgroups([])
    os.setgid(owner.pw_gid)
    os.setuid(owner.pw_uid)
    os.environ.clear()
    os.environ.update(environment)
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())  # Ansible's answer is alone on stdout


def run(steps: list[str], username: str, password: str) -> None:
    """Do the steps by Superset's own functions."""
    from flask_migrate import upgrade
    from superset.app import create_app

    with create_app().app_context():
        from superset.extensions import appbuilder, db, security_manager

        if "migrate" in steps:
            upgrade()
        if "init" in steps:
            appbuilder.add_permissions(update_perms=True)
            security_manager.sync_role_definitions()
            db.session.commit()
        if "admin" in steps and not security_manager.add_user(
            username,
            first_name="Superset",
            last_name="Admin",
            email=f"{username}@localhost",
            role=security_manager.find_role("Admin"),
            password=password,
        ):
            raise SchemaError(f"make the account {username}: Superset refused; see its log")


def apply(
    steps: list[str],
    wanted: State,
    connection: Any,
    facts: dict[str, Any],
    params: dict[str, Any],
) -> None:
    """Do the steps in a process of Superset's user, and note for what release it was done."""
    with credentials(facts, params["user"]) as directory:
        environment = {
            "CREDENTIALS_DIRECTORY": str(directory),
            "PATH": "/usr/bin:/bin",
            "LANG": "C.UTF-8",
            "SUPERSET_CONFIG_PATH": str(Path(params["config"]) / "superset_config.py"),
            "SUPERSET_SERVICE": "schema",
        }
        pool = ProcessPoolExecutor(1, get_context("fork"), become, (params["user"], environment))
        with pool:
            task = pool.submit(run, steps, params["admin_username"], params["admin_password"])
            failure = task.exception()
    if failure:
        raise SchemaError(
            f"{', '.join(steps)} from revision {wanted.revision}: {type(failure).__name__}: "
            f"{failure}"
        ) from failure
    if "init" in steps:
        with connection.cursor() as cursor:
            cursor.execute("comment on table ab_role is %s", (wanted.init,))


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "admin_username": {"type": "str", "required": True},
            "admin_password": {"type": "str", "required": True, "no_log": True},
            "facts": {"type": "path", "default": "/etc/superset/facts.json"},
            "config": {"type": "path", "default": "/etc/superset"},
            "user": {"type": "str", "default": "superset"},
        },
        supports_check_mode=True,
    )
    username = module.params["admin_username"]
    try:
        head, known = installed_revisions()
        wanted = State(head, release(Path(module.params["config"])), username)
        facts = read_facts(module.params["facts"])
        connection = connect(facts["database"])
        if not module.check_mode:
            lock(connection)
        current = read(connection, username)
        if current.revision and current.revision not in known:
            raise SchemaError(
                f"migrate from revision {current.revision}: Superset {wanted.init} does not know "
                "it, so a newer release has migrated this database; deploy that release"
            )
        steps = plan(current, wanted)
        if steps and not module.check_mode:
            apply(steps, wanted, connection, facts, module.params)
            if left := plan(read(connection, username), wanted):
                raise SchemaError(f"{', '.join(left)}: still to be done after {', '.join(steps)}")
    except (SchemaError, OSError, ValueError, LookupError) as error:
        module.fail_json(msg=f"superset_schema: {error}")
    module.exit_json(
        changed=bool(steps),
        steps=steps,
        diff={"before": asdict(current), "after": asdict(wanted)},
    )


if __name__ == "__main__":
    main()
