"""OTLP's trace messages, read with a smaller schema: the same bytes, an eighth of the Python objects.

Protobuf lets a reader declare an embedded message as ``bytes`` and leave out fields that it does not need. Here a
span comes as the bytes that the store keeps anyway, and ``IndexSpan`` reads from them only what it searches by, with
each attribute as one ``bytes`` object that a dictionary can recognise. Whether the bytes are valid OTLP is for the
official classes to say; this view trusts them.

Field numbers: opentelemetry/proto/trace/v1/trace.proto and collector/trace/v1/trace_service.proto, release 1.x.
"""

from typing import Any

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

_Field = descriptor_pb2.FieldDescriptorProto
_PACKAGE = "antiphon.spans"


def _classes() -> dict[str, Any]:
    file = descriptor_pb2.FileDescriptorProto(name="antiphon/spans/wire.proto", package=_PACKAGE, syntax="proto2")

    def message(name: str, /, **fields: tuple[int, "_Field.Type.ValueType | str", bool]) -> None:
        declared = file.message_type.add(name=name)
        for field, (number, kind, repeated) in fields.items():
            label = _Field.LABEL_REPEATED if repeated else _Field.LABEL_OPTIONAL
            if isinstance(kind, str):
                declared.field.add(
                    name=field, number=number, label=label, type=_Field.TYPE_MESSAGE, type_name=f".{_PACKAGE}.{kind}"
                )
            else:
                declared.field.add(name=field, number=number, label=label, type=kind)

    message("Request", resource_spans=(1, "ResourceSpans", True))
    message("ResourceSpans", resource=(1, _Field.TYPE_BYTES, False), scope_spans=(2, "ScopeSpans", True))
    message("ScopeSpans", scope=(1, _Field.TYPE_BYTES, False), spans=(2, _Field.TYPE_BYTES, True))
    message(
        "IndexSpan",
        trace_id=(1, _Field.TYPE_BYTES, False),
        span_id=(2, _Field.TYPE_BYTES, False),
        parent_span_id=(4, _Field.TYPE_BYTES, False),
        name=(5, _Field.TYPE_STRING, False),
        kind=(6, _Field.TYPE_INT32, False),
        start_ns=(7, _Field.TYPE_FIXED64, False),
        end_ns=(8, _Field.TYPE_FIXED64, False),
        attributes=(9, _Field.TYPE_BYTES, True),
        links=(13, "LinkTarget", True),
        status=(15, "Status", False),
    )
    message("LinkTarget", trace_id=(1, _Field.TYPE_BYTES, False), span_id=(2, _Field.TYPE_BYTES, False))
    message("Status", code=(3, _Field.TYPE_INT32, False))
    pool = descriptor_pool.DescriptorPool()
    pool.AddSerializedFile(file.SerializeToString())
    return {
        declared.name: message_factory.GetMessageClass(pool.FindMessageTypeByName(f"{_PACKAGE}.{declared.name}"))
        for declared in file.message_type
    }


_CLASSES = _classes()
# Any: classes made at run time have no type that mypy could know
Request: Any = _CLASSES["Request"]
"""``ExportTraceServiceRequest`` down to the bytes of each resource, scope and span."""
IndexSpan: Any = _CLASSES["IndexSpan"]
"""The searched fields of a ``Span``: ids, name, kind, times (ns), attributes as bytes, link targets, status code."""
