"""The table of styles: every conversation, by name. What a pair of style and transport can do is asked here."""

from services.styles import (
    async_request_response,
    choreography,
    event_sourcing,
    hybrid,
    message_queue,
    notification,
    orchestration,
    publish_async_responses,
    publish_subscribe,
    request_response,
)
from services.styles.roles import Style
from services.transports import TRANSPORTS, Port, Transport

STYLES: dict[str, Style] = {
    module.STYLE.name: module.STYLE
    for module in (
        request_response,
        async_request_response,
        notification,
        message_queue,
        publish_subscribe,
        publish_async_responses,
        choreography,
        orchestration,
        event_sourcing,
        hybrid,
    )
}


def why_not(style: Style, transport: Transport, position: int = 0) -> str | None:
    """Why ``transport`` cannot be the ``position``-th port of ``style``; None if it can."""
    port = style.ports[position]
    if port in transport.ports:
        return None
    lacks = transport.lacks or f"{transport.name} offers {', '.join(sorted(transport.ports))}"
    return f"{style.name} needs a {port}: {lacks}"


def runnable(style: Style, port: Port) -> list[str]:
    """The transports that can be ``port`` of ``style``."""
    return [t.name for t in TRANSPORTS.values() if why_not(style, t, style.ports.index(port)) is None]
