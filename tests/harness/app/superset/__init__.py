"""As much of Superset as the guard meets: its names, and the order of its steps.

A query's row is written where Superset 6.1 writes it (superset/sql_lab.py there), a chart's events
too. What Superset does besides, and what its pages show, the scenarios on machines look at.
"""

from flask_sqlalchemy import SQLAlchemy

db = SQLAlchemy()
