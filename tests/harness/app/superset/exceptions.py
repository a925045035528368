"""See superset."""


class SupersetParseError(Exception):
    """SQL cannot be parsed."""
