#!/usr/bin/python
"""Ansible module: wait until servers of a running HAProxy get requests."""

from __future__ import annotations

DOCUMENTATION = r"""
module: haproxy_rotation
short_description: Wait until servers of a running HAProxy get requests
description:
  - Waits until each of O(servers) is in HAProxy's backend, is told to have requests and passes
    its checks. Fails with the servers that do not after O(timeout), and says why.
  - Runs on the machine of HAProxy, as a user who may write to O(socket).
  - Changes nothing, so it runs in check mode too.
options:
  backend:
    description: Name of the backend.
    type: str
    required: true
  servers:
    description: Names of the servers.
    type: list
    elements: str
    required: true
  socket:
    description: HAProxy's C(stats socket).
    type: path
    default: /run/haproxy/admin.sock
  timeout:
    description: Seconds to wait for them.
    type: int
    default: 180
attributes:
  check_mode:
    support: full
author:
  - The superset-fleet project
"""

EXAMPLES = r"""
- name: Wait until the new instance gets requests
  haproxy_rotation:
    backend: superset_web
    servers: [i-0123456789abcdef0]
"""

RETURN = r"""
servers:
  description: The servers that get requests, each with its address and port.
  returned: always
  type: dict
  sample: {"web-1": "10.0.0.1:8088"}
"""

import time
from collections.abc import Iterable, Mapping

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.superset_fleet.membership.haproxy import (
    SOCKET,
    HAProxy,
    HAProxyError,
    Server,
)

LOOK_SECONDS = 0.5


def lacking(wanted: Iterable[str], servers: Mapping[str, Server]) -> list[str]:
    """Return in words which servers get no requests, and why."""
    told = []
    for name in wanted:
        server = servers.get(name)
        if server is None:
            told.append(f"{name} is not in the backend")
        elif server.state != "ready":
            told.append(f"{name} is told to {server.state}")
        elif not server.up:
            told.append(f"{name} at {server.address} does not pass its checks")
    return told


def main() -> None:
    """Run the module."""
    module = AnsibleModule(
        argument_spec={
            "backend": {"type": "str", "required": True},
            "servers": {"type": "list", "elements": "str", "required": True},
            "socket": {"type": "path", "default": SOCKET},
            "timeout": {"type": "int", "default": 180},
        },
        supports_check_mode=True,
    )
    backend, wanted = module.params["backend"], module.params["servers"]
    haproxy = HAProxy(module.params["socket"], backend)
    deadline = time.monotonic() + module.params["timeout"]
    while True:
        try:
            servers = haproxy.servers()
            missing = lacking(wanted, servers)
        except HAProxyError as error:
            servers, missing = {}, [str(error)]
        if not missing or time.monotonic() >= deadline:
            break
        time.sleep(LOOK_SECONDS)
    rotation = {
        name: server.address
        for name, server in sorted(servers.items())
        if server.state == "ready" and server.up
    }
    if missing:
        module.fail_json(
            msg=f"after {module.params['timeout']} s backend {backend}: {'; '.join(missing)}. See "
            "journalctl --unit fleet-membership on this machine, and --unit fleet-boot --unit "
            "superset-web on those",
            servers=rotation,
        )
    module.exit_json(changed=False, servers=rotation)


if __name__ == "__main__":
    main()
