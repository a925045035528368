"""See superset."""
