"""What no schema says of an order or a quote: what a wire must refuse although it has the right form."""

from services.domain.messages import Order, Quote


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


def check_quote(quote: Quote) -> None:
    """Raises ``ValueError`` with the field that is wrong: neither its price nor its days are ever negative."""
    if quote.price_cents < 0:
        raise ValueError("price_cents: is less than 0")
    if quote.days < 0:
        raise ValueError("days: is less than 0")
