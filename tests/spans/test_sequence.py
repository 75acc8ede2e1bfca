"""``lab trace --mermaid``: a conversation as a sequence diagram."""

from inline_snapshot import snapshot

from lab.sequence import diagram
from services.telemetry import conventions as names
from tests.spans.stories import Story, choreography, request_response
from tests.spans.support import stored


def drawn(folder, story):
    return diagram(stored(folder, story).order("o-1").model_dump(mode="json")).splitlines()


def test_messages_go_to_each_that_handled_them(tmp_path):
    assert drawn(tmp_path, choreography("both")) == snapshot(
        [
            "sequenceDiagram",
            "participant client",
            "participant orders",
            "participant inventory",
            "participant payment",
            "client->>orders: POST /orders",
            "orders-->>client: answer",
            "orders-)inventory: orders.events",
            "inventory-)payment: inventory.events",
            "payment-)orders: payment.events",
            "Note over orders: completed",
        ]
    )


def test_links_alone_make_the_same_picture(tmp_path):
    """The arrows come from the messages, not from the trace's shape."""
    (tmp_path / "1").mkdir()
    (tmp_path / "2").mkdir()
    assert drawn(tmp_path / "1", choreography("both")) == drawn(tmp_path / "2", choreography("link"))


def test_calls_are_answered(tmp_path):
    assert drawn(tmp_path, request_response()) == snapshot(
        [
            "sequenceDiagram",
            "participant client",
            "participant orders",
            "participant inventory",
            "participant payment",
            "client->>orders: POST /orders",
            "orders->>inventory: POST /commands",
            "inventory-->>orders: answer",
            "orders->>payment: POST /commands",
            "payment-->>orders: answer",
            "orders-->>client: answer, completed",
        ]
    )


def test_what_went_wrong_stands_beside_it(tmp_path):
    """A message that nobody heard, one that came again, one that was given up, an answer that nobody waited for."""
    story = Story()
    root = story.span("orders", "POST /orders", "server", 0, 10)
    lost = story.message("orders.events", "send", "m-0") | {names.EVENT_TYPE: "order.placed"}
    story.span("orders", "send", "producer", 1, 2, parent=root, attributes=lost)
    sent = story.message("payment.events", "send", "m-1") | {names.EVENT_TYPE: "payment.charged"}
    producer = story.span("payment", "send", "producer", 3, 4, parent=root, attributes=sent)
    heard = story.message("payment.events", "process", "m-1")
    for number, more in enumerate(
        (
            {names.LAB_DELIVERY_ATTEMPT: 2, names.LAB_DUPLICATE: True},
            {names.LAB_DEAD_LETTER_REASON: "ValueError: no; such #card"},
            {names.LAB_REPLY: "late"},
        )
    ):
        story.span("orders", "process", "consumer", 5 + number, 6 + number, parent=producer, attributes=heard | more)
    assert drawn(tmp_path, story) == snapshot(
        [
            "sequenceDiagram",
            "participant client",
            "participant orders",
            "participant payment",
            "client->>orders: POST /orders",
            "orders-xorders: order.placed (orders.events): heard by nobody",
            "payment-)orders: payment.charged (payment.events)",
            "Note over orders: attempt 2, known already",
            "payment-)orders: payment.charged (payment.events)",
            "Note over orders: dead letter: ValueError  no  such  card",
            "payment-)orders: payment.charged (payment.events)",
            "Note over orders: reply: late",
            "orders-->>client: answer",
        ]
    )
