"""See superset."""

from typing import Any

from celery.exceptions import SoftTimeLimitExceeded

from superset.extensions import async_query_manager, celery_app
from superset.sql_lab import execute, keep


@celery_app.task(name="load_chart_data_into_cache")  # type: ignore[untyped-decorator]
def load_chart_data_into_cache(job_metadata: dict[str, Any], form_data: dict[str, Any]) -> None:
    """Load a chart's data, and say so."""
    try:
        rows, _ = execute([form_data["sql"]])
        update = {"result_url": keep(rows)}
        async_query_manager.update_job(job_metadata, async_query_manager.STATUS_DONE, **update)
    except SoftTimeLimitExceeded:
        raise
    except Exception as error:
        errors = [{"message": str(error)}]
        async_query_manager.update_job(
            job_metadata, async_query_manager.STATUS_ERROR, errors=errors
        )
        raise
