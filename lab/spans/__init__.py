"""The span store: what Jaeger lacks, not a copy of it.

An embedded index of spans *and of links in both directions*, by order, run, trace and message. It takes OTLP over
HTTP, keeps every span, passes the payloads on to Jaeger (or any other OTLP address) from a cursor of its own, and
answers what a trace UI cannot: all traces of one order, who consumed this message, the critical path through queues.

Reading order: ``schema`` (the tables) · ``otlp`` (bytes to rows) · ``ingest`` (rows to disk) · ``forward`` (to
Jaeger) · ``graph`` (causes and effects) · ``critical_path`` · ``queries`` and ``runs`` (the questions) · ``app``
(HTTP).
"""
