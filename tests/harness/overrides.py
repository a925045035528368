"""What superset_config.py has otherwise in the harness: the tasks that there are."""

CeleryConfig.imports = ("superset.sql_lab", "superset.tasks.async_queries")  # type: ignore[name-defined] # noqa: F821
