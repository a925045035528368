"""What clients and operators see in Superset's web application.

`queues` reads what is known, `metrics` and `pages` show it below /fleet, `banner` on Superset's
own pages; `answers` puts refusals into Superset's answers; `ready` is for load balancers. `app`
adds all of it to Superset's application.
"""
