#!/usr/bin/python
"""Refuse to go on where Superset could not reach its database or its Redis instances."""

from __future__ import annotations

DOCUMENTATION = r"""
module: superset_connections
short_description: Refuse to go on where Superset could not reach what it needs
description:
  - Logs in to the metadata database and to each Redis instance, from this machine, with the
    addresses and passwords that Superset would be given.
  - All that fail are named in one message, each with its remedy.
  - Changes nothing, so it runs in check mode too.
requirements: [psycopg2, redis]
options:
  database:
    description: The metadata database.
    type: dict
    required: true
    suboptions:
      host:
        description: Address.
        type: str
        required: true
      port:
        description: TCP port.
        type: int
        required: true
      password:
        description: Password.
        type: str
        required: true
      name:
        description: Name of the database.
        type: str
        required: true
      user:
        description: Its user.
        type: str
        required: true
  redis:
    description: Name of a Redis instance to its C(host), C(port) and C(password).
    type: dict
    required: true
    suboptions:
      coordination: &instance
        description: One of the instances.
        type: dict
        required: true
        suboptions:
          host:
            description: Address.
            type: str
            required: true
          port:
            description: TCP port.
            type: int
            required: true
          password:
            description: Password.
            type: str
            required: true
      results: *instance
      cache: *instance
author:
  - The superset-fleet project
"""

EXAMPLES = r"""
- name: Try what Superset will connect to
  superset_connections:
    database: "{{ superset_facts.database }}"
    redis: "{{ superset_facts.redis }}"
  vars:
    ansible_python_interpreter: /opt/superset/venv/bin/python
"""

RETURN = r"""
reached:
  description: What answered.
  returned: success
  type: list
  elements: str
  sample: [the metadata database, Redis coordination, Redis results, Redis cache]
"""

from typing import Any

import psycopg2
import redis
from ansible.module_utils.basic import AnsibleModule

SECONDS = 5  # to connect; the machines are neighbours
INSTANCES = "coordination", "results", "cache"


def try_database(server: dict[str, Any]) -> str:
    """Return why the database cannot be used, or ''."""
    try:
        psycopg2.connect(
            host=server["host"],
            port=server["port"],
            dbname=server["name"],
            user=server["user"],
            password=server["password"],
            connect_timeout=SECONDS,
        ).close()
    except psycopg2.OperationalError as error:
        return (
            f"the metadata database {server['name']} at {server['host']}:{server['port']} refuses"
            f" user {server['user']} or does not answer ({str(error).splitlines()[0]}): check that"
            " PostgreSQL runs there and superset_database_password, or run playbooks/postgres.yml"
        )
    return ""


def try_redis(name: str, server: dict[str, Any]) -> str:
    """Return why the Redis instance cannot be used, or ''."""
    client = redis.Redis(
        host=server["host"],
        port=server["port"],
        password=server["password"],
        socket_connect_timeout=SECONDS,
        socket_timeout=SECONDS,
    )
    where = f"Redis {name} at {server['host']}:{server['port']}"
    try:
        client.ping()
    except redis.AuthenticationError as error:
        return (
            f"{where} refuses the password ({error}): check redis_{name}_password,"
            " or run playbooks/redis.yml"
        )
    except redis.RedisError as error:
        return (
            f"{where} does not answer ({error}): systemctl status redis-server@{name} there,"
            " or run playbooks/redis.yml"
        )
    finally:
        client.close()
    return ""


def main() -> None:
    """Run the module."""
    server = {
        "host": {"type": "str", "required": True},
        "port": {"type": "int", "required": True},
        "password": {"type": "str", "required": True, "no_log": True},
    }
    names = {"name": {"type": "str", "required": True}, "user": {"type": "str", "required": True}}
    instance = {"type": "dict", "required": True, "options": server}
    module = AnsibleModule(
        argument_spec={
            "database": {"type": "dict", "required": True, "options": {**server, **names}},
            "redis": {
                "type": "dict",
                "required": True,
                "options": dict.fromkeys(INSTANCES, instance),
            },
        },
        supports_check_mode=True,
    )
    tried = {"the metadata database": try_database(module.params["database"])}
    for name in INSTANCES:
        tried[f"Redis {name}"] = try_redis(name, module.params["redis"][name])
    if problems := [problem for problem in tried.values() if problem]:
        module.fail_json(msg="; ".join(problems))
    module.exit_json(changed=False, reached=list(tried))


if __name__ == "__main__":
    main()
