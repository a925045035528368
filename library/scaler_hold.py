#!/usr/bin/python
"""Ansible module: hold the scaler, or release it."""

from __future__ import annotations

DOCUMENTATION = r"""
module: scaler_hold
short_description: Hold the scaler, or release it
description:
  - Held, it changes the size of no worker group, whatever waits; it goes on to report, and to
    protect machines that have tasks.
options:
  redis:
    description: The Redis instance C(coordination).
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
  group:
    description:
      - Name of the auto-scaling group whose size is held, or released; C(*) for all of them.
      - To release all is to release each that was held by its name, too.
    type: str
    default: "*"
  reason:
    description:
      - Why it is held, for those who wonder. Empty to release it.
      - Whoever holds the same already for another reason does so no more.
    type: str
    default: ""
requirements: [redis]
attributes:
  check_mode:
    support: full
author:
  - The superset-fleet project
"""

EXAMPLES = r"""
- name: Hold one group
  scaler_hold:
    redis: "{{ superset_facts.redis.coordination }}"
    group: superset-celery_worker
    reason: upgrade
  vars:
    ansible_python_interpreter: /opt/superset/venv/bin/python
"""

RETURN = r"""
reason:
  description: Why it was held before; empty where it was not.
  returned: success
  type: str
  sample: upgrade
"""

import redis
from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.superset_fleet.state.facts import GUARD, redis_url
from ansible.module_utils.superset_fleet.state.registry import EVERY_GROUP, Registry


def hold(registry: Registry, group: str, reason: str, check: bool) -> tuple[bool, str]:
    """Hold a group, or release it where the reason is empty.

    Return whether that is a change, and why it was held before.
    """
    held = registry.held()
    before = held[group].reason if group in held else ""
    changed = reason != before or (not reason and group == EVERY_GROUP and bool(held))
    if changed and not check:
        if reason:
            registry.hold(reason, group)
        else:
            registry.release_hold(group)
    return changed, before


def main() -> None:
    """Run the module."""
    module = AnsibleModule(
        argument_spec={
            "redis": {
                "type": "dict",
                "required": True,
                "options": {
                    "host": {"type": "str", "required": True},
                    "port": {"type": "int", "required": True},
                    "password": {"type": "str", "required": True, "no_log": True},
                },
            },
            "group": {"type": "str", "default": EVERY_GROUP},
            "reason": {"type": "str", "default": ""},
        },
        supports_check_mode=True,
    )
    server = module.params["redis"]
    registry = Registry(redis_url(server, GUARD), timeout_seconds=5)
    try:
        changed, before = hold(
            registry, module.params["group"], module.params["reason"], module.check_mode
        )
    except redis.RedisError as error:
        module.fail_json(
            msg=f"Redis coordination at {server['host']}:{server['port']} does not answer"
            f" ({error}): systemctl status redis-server@coordination there"
        )
    module.exit_json(changed=changed, reason=before)


if __name__ == "__main__":
    main()
