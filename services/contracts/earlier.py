"""Records of antiphon.avpr as they once were. They stay: a journal keeps its messages for good, and nobody reads Avro
without the schema that wrote it."""

from typing import Any

EVENT_WITHOUT_QUOTES: dict[str, Any] = {
    "type": "record",
    "name": "antiphon.v1.Event",
    "fields": [
        {"name": "type", "type": "string"},
        {
            "name": "order",
            "type": {
                "type": "record",
                "name": "antiphon.v1.Order",
                "fields": [
                    *({"name": name, "type": "string"} for name in ("order_id", "customer", "card", "ship_to")),
                    {
                        "name": "lines",
                        "type": {
                            "type": "array",
                            "items": {
                                "type": "record",
                                "name": "antiphon.v1.Line",
                                "fields": [{"name": "sku", "type": "string"}, {"name": "quantity", "type": "long"}],
                            },
                        },
                    },
                    {"name": "amount_cents", "type": "long"},
                ],
            },
        },
        {"name": "reason", "type": ["null", "string"]},
    ],
}
"""Before there were carriers to ask: without ``carrier``, ``price_cents`` and ``days``."""
