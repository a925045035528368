"""python -m superset_fleet.membership"""

from .daemon import main

main()
