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
  reason:
    description:
      - Why it is held, for those who wonder. Empty to release it.
      - Whoever holds it already for another reason does so no more.
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
- name: Hold the scaler
  scaler_hold:
    redis: "{{ superset_facts.redis.coordination }}"
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
from ansible.module_utils.superset_fleet.facts import GUARD, redis_url
from ansible.module_utils.superset_fleet.guard.registry import Registry


def hold(registry: Registry, reason: str, check: bool) -> str:
    """Hold the scaler, or release it where the reason is empty; return why it was held before."""
    held = registry.held()
    before = held.reason if held else ""
    if not check and reason != before:
        if reason:
            registry.hold(reason)
        else:
            registry.release_hold()
    return before


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
            "reason": {"type": "str", "default": ""},
        },
        supports_check_mode=True,
    )
    server, reason = module.params["redis"], module.params["reason"]
    registry = Registry(redis_url(server, GUARD), timeout_seconds=5)
    try:
        before = hold(registry, reason, module.check_mode)
    except redis.RedisError as error:
        module.fail_json(
            msg=f"Redis coordination at {server['host']}:{server['port']} does not answer"
            f" ({error}): systemctl status redis-server@coordination there"
        )
    module.exit_json(changed=reason != before, reason=before)


if __name__ == "__main__":
    main()
