"""Make library/ and src/ importable the way Ansible does."""

import sys
from pathlib import Path

import ansible.module_utils

ROOT = Path(__file__).parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "library"), str(ROOT / "inventory" / "plugins")]
ansible.module_utils.__path__.append(str(ROOT / "src"))
