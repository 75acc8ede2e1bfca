"""The load: who orders what, how often, and what they got. Locust speaks HTTP to the front door and nothing
else.

Read in this order: ``profiles`` (the table of workloads), ``shapes`` (their pacing), ``orders`` (the seeded
order bodies), ``plan`` (what one Locust process is told), ``locustfile`` (the users), ``records`` (what they
report). Only ``locustfile`` imports Locust, whose gevent patches the standard library; everything else is
plain Python.
"""
