"""python -m superset_fleet.watchdog"""

from .daemon import main

main()
