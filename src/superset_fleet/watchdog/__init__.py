"""Fails what nobody else will finish: jobs whose worker died, and jobs that no worker takes."""
