"""See superset."""


class AbstractEventLogger:
    """Logs what users do, which nobody looks at here."""
