"""The table of styles: every conversation, by name. What a pair of style and transport can do is asked here."""

from services.styles import choreography, message_queue, request_response
from services.styles.roles import Style
from services.transports import TRANSPORTS, Transport

STYLES: dict[str, Style] = {s.name: s for s in (request_response.STYLE, message_queue.STYLE, choreography.STYLE)}


def why_not(style: Style, transport: Transport, position: int = 0) -> str | None:
    """Why ``transport`` cannot be the ``position``-th port of ``style``; None if it can."""
    port = style.ports[position]
    if port in transport.ports:
        return None
    lacks = transport.lacks or f"{transport.name} offers {', '.join(sorted(transport.ports))}"
    return f"{style.name} needs a {port}: {lacks}"


def runnable(style: Style) -> list[str]:
    """The transports that can carry ``style`` (where it needs one port)."""
    return [t.name for t in TRANSPORTS.values() if why_not(style, t) is None]
