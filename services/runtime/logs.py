"""Logs: one JSON object a line on standard output, with the trace, span and order that it belongs to."""

import logging
import sys
from collections.abc import MutableMapping
from typing import Any

import structlog
from opentelemetry.trace import format_span_id, format_trace_id, get_current_span


def set_up(service: str) -> None:
    """Send structlog's and the standard library's records (from WARNING on) to standard output."""
    shared: list[structlog.types.Processor] = [
        structlog.contextvars.merge_contextvars,
        _service(service),
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True, key="time"),
        _trace,
        structlog.processors.format_exc_info,
    ]
    structlog.configure(
        processors=[*shared, structlog.processors.JSONRenderer()],
        wrapper_class=structlog.make_filtering_bound_logger(logging.INFO),
        logger_factory=structlog.PrintLoggerFactory(sys.stdout),
        cache_logger_on_first_use=True,
    )
    handler = logging.StreamHandler(sys.stdout)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[
                structlog.stdlib.ProcessorFormatter.remove_processors_meta,
                structlog.processors.JSONRenderer(),
            ],
        )
    )
    logging.basicConfig(level=logging.WARNING, handlers=[handler], force=True)


def _service(service: str) -> structlog.types.Processor:
    """Whose line it is: the process's, where no context says more."""

    def add(_logger: Any, _method: str, record: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
        record.setdefault("service", service)
        return record

    return add


def _trace(_logger: Any, _method: str, record: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    context = get_current_span().get_span_context()
    if context.is_valid:
        record["trace_id"] = format_trace_id(context.trace_id)
        record["span_id"] = format_span_id(context.span_id)
    return record
