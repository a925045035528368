"""See superset."""

from collections.abc import Callable
from importlib import import_module
from types import SimpleNamespace
from typing import Any

import celery

from superset import db
from superset.async_events.async_query_manager import AsyncQueryManager

celery_app = celery.Celery()
cache_manager = SimpleNamespace(distributed_coordination=None)
feature_flag_manager = SimpleNamespace(is_feature_enabled=lambda _: True)
async_query_manager = AsyncQueryManager()


def talisman(**_: Any) -> Callable[[Any], Any]:
    """Let a page be as it is."""
    return lambda view: view


def use_manager(name: str) -> None:
    """Take another class for the manager of events."""
    module, _, kind = name.rpartition(".")
    async_query_manager.__class__ = getattr(import_module(module), kind)


__all__ = [
    "async_query_manager",
    "cache_manager",
    "celery_app",
    "db",
    "feature_flag_manager",
    "talisman",
]
