"""See superset."""

import time
from pathlib import Path
from typing import Any

from celery.worker.control import control_command

from superset.app import create_app
from superset.extensions import celery_app as app

flask_app = create_app()


def teardown(**_: Any) -> None:
    """Nothing: superset_config.py takes off a receiver of this name."""


@control_command()  # type: ignore[untyped-decorator]
def stand_still(_: Any, file: str) -> None:
    """Let a worker's event loop, of which remote control is a part, stand while there is a file."""
    path = Path(file)
    path.touch()
    while path.exists():
        time.sleep(0.01)


class AppContextTask(app.Task):  # type: ignore[misc]
    """A task with the application's context."""

    abstract = True

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        with flask_app.app_context():
            return super().__call__(*args, **kwargs)


app.Task = AppContextTask
