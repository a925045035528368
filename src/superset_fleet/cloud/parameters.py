"""Where the parameter store has facts and secrets; `fleet_parameters` tells plays the same."""

from __future__ import annotations


def facts_path(fleet: str) -> str:
    """Return what the names of its facts begin with; below it is one parameter for each role."""
    return f"/superset-fleet/{fleet}/facts"


def secrets_path(fleet: str) -> str:
    """Return what the names of its secrets begin with; below it is one parameter for each."""
    return f"/superset-fleet/{fleet}/secrets"
