"""Grafana's boards and Prometheus' rules, as code: ``python -m dashboards`` writes the files that both targets load.

A board is a module with a ``BOARD``, made of what ``panels`` offers; ``rules`` has the recorded and the alerting ones.
Every metric is a constant of ``services.telemetry.conventions`` or stands in ``foreign``.
"""
