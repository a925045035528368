"""python -m superset_fleet.scaler"""

from .daemon import main

main()
