"""Apache Superset on an auto-scaling fleet of VMs."""
