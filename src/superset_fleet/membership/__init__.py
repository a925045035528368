"""Keeps the servers of HAProxy as the fleet's web machines are."""
