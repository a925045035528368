#!/usr/bin/python
"""Give a running HAProxy the servers that it shall have, without a reload."""

from __future__ import annotations

DOCUMENTATION = r"""
module: haproxy_servers
short_description: Give a running HAProxy the servers of a backend, without a reload
description:
  - Adds and removes servers by HAProxy's Runtime API, so that no connection is cut.
  - A newcomer is added as soon as it answers 200 at O(probe_path).
  - A server that is to go gets no more requests, finishes those that it has, and is removed then.
  - Servers of the same name and address stay as they are. One with another address is removed
    first and added then.
  - Runs on the machine of HAProxy, 2.6 or newer, as a user who may write to O(socket). The
    backend's C(balance) must be a dynamic one, such as C(leastconn), C(roundrobin), C(random).
  - For machines whose number is changed by playbooks. Where C(fleet-membership) runs, it does this.
options:
  backend:
    description: Name of the backend.
    type: str
    required: true
  servers:
    description: Its servers, each name with its C(address:port), the address being an IP address.
    type: dict
    required: true
  options:
    description:
      - What newcomers have besides, as in a line C(server) of HAProxy's configuration.
      - HAProxy's C(default-server) is not for servers that are added while it runs.
    type: str
    default: check
  probe_path:
    description: Path at which a server that can take requests answers 200.
    type: str
    required: true
  removable_share:
    description:
      - Share of the servers in use that may be missing from O(servers) at once. Where more are,
        and no newcomer stands in for them, all are kept, and the module fails.
      - 1 is for when an inventory that is so much shorter is right.
    type: float
    default: 0.5
  servers_file:
    description:
      - File to hold the servers as lines of HAProxy's configuration, which
        HAProxy reads when it is started or reloaded. Without it they are forgotten then.
    type: path
  socket:
    description: HAProxy's C(stats socket), of level C(admin).
    type: path
    default: /run/haproxy/admin.sock
  timeout:
    description: Seconds to wait for newcomers to answer and for requests to finish.
    type: int
    default: 180
attributes:
  check_mode:
    support: full
  diff_mode:
    support: full
author:
  - The superset-fleet project
"""

EXAMPLES = r"""
- name: Give HAProxy the web instances of the inventory
  haproxy_servers:
    backend: superset_web
    servers: "{{ superset_web_endpoints }}"
    options: check inter 2s fall 3 rise 1
    probe_path: /ready

- name: Take one instance out for as long as it is worked at
  haproxy_servers:
    backend: superset_web
    servers: "{{ superset_web_endpoints | dict2items
      | rejectattr('key', 'eq', inventory_hostname) | items2dict }}"
    probe_path: /ready
  delegate_to: haproxy-1
"""

RETURN = r"""
steps:
  description: What was done, or in check mode would be done next, in this order.
  returned: always
  type: list
  elements: dict
  contains:
    verb:
      description:
        - V(add), V(ready), V(drain) or V(delete) a server; V(wait) for one to answer or to finish
          its requests; V(keep) one that is missing together with too many.
      type: str
      sample: add
    server:
      description: Its name.
      type: str
      sample: web-2
    address:
      description: Its address and port.
      type: str
      sample: 10.0.0.2:8088
    reason:
      description: Why.
      type: str
      sample: is wanted and answers
servers:
  description: The servers in use afterwards, each with its address and port.
  returned: success
  type: dict
  sample: {"web-1": "10.0.0.1:8088", "web-2": "10.0.0.2:8088"}
"""

import time
from collections.abc import Mapping
from pathlib import Path

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.superset_fleet.files import holds, replace
from ansible.module_utils.superset_fleet.membership import plan as membership
from ansible.module_utils.superset_fleet.membership.haproxy import (
    SOCKET,
    HAProxy,
    HAProxyError,
    Server,
)
from ansible.module_utils.superset_fleet.membership.plan import WAITING, Action

LOOK_SECONDS = 0.2  # between two looks while something is waited for


def in_use(servers: Mapping[str, Server]) -> dict[str, str]:
    """Return the servers that get requests, with their addresses."""
    return {
        name: server.address for name, server in sorted(servers.items()) if server.state == "ready"
    }


def main() -> None:
    """Run the module."""
    module = AnsibleModule(
        argument_spec={
            "backend": {"type": "str", "required": True},
            "servers": {"type": "dict", "required": True},
            "options": {"type": "str", "default": "check"},
            "probe_path": {"type": "str", "required": True},
            "removable_share": {"type": "float", "default": 0.5},
            "servers_file": {"type": "path"},
            "socket": {"type": "path", "default": SOCKET},
            "timeout": {"type": "int", "default": 180},
        },
        supports_check_mode=True,
    )
    given = module.params
    haproxy = HAProxy(given["socket"], given["backend"])
    wanted = {str(name): str(address) for name, address in given["servers"].items()}
    servers_file = Path(given["servers_file"]) if given["servers_file"] else None
    deadline = time.monotonic() + given["timeout"]
    told: list[Action] = []

    def planned(current: Mapping[str, Server]) -> list[Action]:
        newcomers = membership.unproven(current, wanted)
        answering = membership.probe(newcomers, given["probe_path"])
        share: float = given["removable_share"]
        steps: list[Action] = membership.plan(current, wanted, answering, {}, share)
        return steps

    def result(before: dict[str, str], after: dict[str, str], changed: bool) -> dict[str, object]:
        return {
            "changed": changed,
            "steps": [step._asdict() for step in told],
            "diff": {"before": before, "after": after},
        }

    before: dict[str, str] = {}
    current: dict[str, Server] = {}
    changed = False

    def save() -> bool:
        """Bring the servers file up to date; return whether it was not."""
        text = membership.rendered(current)
        if not servers_file or holds(servers_file, text):
            return False
        if not module.check_mode:
            replace(servers_file, text, mode=0o644)
        return True

    try:
        current = haproxy.servers()
        before, steps = in_use(current), planned(current)
        changed = save() or bool(steps)
        if module.check_mode:
            told = steps
            kept = {step.server: step.address for step in steps if step.verb == "keep"}
            module.exit_json(**result(before, wanted | kept, changed), servers=before)
        while steps:
            done = membership.carry_out_all(haproxy, steps, given["options"])
            told += [step for step, error in done if not error]
            current = haproxy.servers()
            save()
            only_kept = all(step.verb == "keep" for step in steps)
            if only_kept or time.monotonic() >= deadline:
                problems = [str(error) for _, error in done if error]
                problems += [
                    f"{step.server} {step.reason}" for step in steps if step.verb in WAITING
                ]
                changed = bool(told)
                module.fail_json(
                    msg=f"backend {haproxy.backend} is not as wanted: {'; '.join(problems)}",
                    **result(before, in_use(current), changed),
                )
            if all(error for _, error in done):
                time.sleep(LOOK_SECONDS)
            steps = planned(current)
    except (HAProxyError, OSError) as error:
        module.fail_json(msg=str(error), **result(before, in_use(current), bool(told)))
    module.exit_json(**result(before, in_use(current), changed), servers=in_use(current))


if __name__ == "__main__":
    main()
