"""What no schema says of an order: what a wire must refuse although it has the right form."""

from services.domain.messages import Order


def check(order: Order) -> None:
    """Raises ``ValueError`` with the field that is wrong: ``order_id`` is never empty, there is at least one line,
    and of each at least one piece. In Protobuf this is also how a missing field shows, which arrives as empty or
    zero."""
    if not order.order_id:
        raise ValueError("order.order_id: is missing or empty")
    if not order.lines:
        raise ValueError("order.lines: is missing or empty")
    for index, line in enumerate(order.lines):
        if line.quantity < 1:
            raise ValueError(f"order.lines.{index}.quantity: is missing or less than 1")
