"""python -m superset_fleet.agent"""

from .daemon import main

main()
