"""The value of an expression on each host.

    python -m superset_fleet.control.templating PATTERN EXPRESSION

By Ansible's own inventory, variables and templates, but in one process: the task `debug` would
start one for each host, and takes twice as long. Prints JSON, value by host.
"""

from __future__ import annotations

import json
import sys

from ansible import context
from ansible.cli import CLI
from ansible.cli.adhoc import AdHocCLI
from ansible.errors import AnsibleError
from ansible.template import Templar, trust_as_template
from ansible.vars.hostvars import HostVars


class TemplatingCLI(AdHocCLI):  # type: ignore[misc]
    """`ansible PATTERN --args EXPRESSION`, with its configuration, inventory and vault secrets."""

    USES_CONNECTION = False

    def run(self) -> int:
        """Print the values. Returns 1 when there is one that cannot be had, and says why."""
        CLI.run(self)  # reads the arguments; that of AdHocCLI runs a task
        loader, inventory, variables = self._play_prereqs()
        HostVars(inventory=inventory, variable_manager=variables, loader=loader)
        expression = trust_as_template(f"{{{{ {context.CLIARGS['module_args']} }}}}")
        values = {}
        for host in inventory.list_hosts(context.CLIARGS["args"]):
            known = variables.get_vars(host=host)
            try:
                values[str(host)] = Templar(loader=loader, variables=known).template(expression)
            except AnsibleError as error:
                print(f"{host}: {error}", file=sys.stderr)
                return 1
        print(json.dumps(values))
        return 0


if __name__ == "__main__":
    pattern, text = sys.argv[1:]
    TemplatingCLI.cli_executor(["ansible", pattern, "--args", text])
