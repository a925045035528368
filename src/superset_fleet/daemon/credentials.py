"""What systemd hands over to a daemon."""

from __future__ import annotations

import os
import re
from pathlib import Path


def aws_config(source: Path) -> Path | None:
    """Return the AWS config file: the credential made of `source`, or `source` without systemd.

    None where it is missing or has no profile: then the instance profile counts.
    """
    handed = Path(os.environ.get("CREDENTIALS_DIRECTORY", ""), source.name)
    path = handed if handed.is_absolute() else source
    has_profile = path.is_file() and re.search(r"^\[", path.read_text(), re.MULTILINE)
    return path if has_profile else None
