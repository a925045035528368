"""Make importable what Ansible and the tests import by itself: library, src, support."""

import sys
from pathlib import Path

import ansible.module_utils

ROOT = Path(__file__).parents[1]
sys.path[:0] = [str(ROOT / part) for part in (".", "library", "inventory/plugins", "tests/support")]
ansible.module_utils.__path__.append(str(ROOT / "src"))
