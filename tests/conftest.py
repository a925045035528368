"""The package for modules, which import it from where Ansible ships it to."""

import ansible.module_utils

from superset_fleet.control.ask import ROOT

# Ansible makes `ansible.module_utils.superset_fleet` when it packs a module; a path of Python's
# alone makes no package within that one.
ansible.module_utils.__path__.append(str(ROOT / "src"))
