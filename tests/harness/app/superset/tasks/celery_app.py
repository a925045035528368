"""See superset."""

from typing import Any

from superset.app import create_app
from superset.extensions import celery_app as app

flask_app = create_app()


def teardown(**_: Any) -> None:
    """Nothing: superset_config.py takes off a receiver of this name."""


class AppContextTask(app.Task):  # type: ignore[misc]
    """A task with the application's context."""

    abstract = True

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        with flask_app.app_context():
            return super().__call__(*args, **kwargs)


app.Task = AppContextTask
