"""The AsyncAPI document of all styles (services/contracts/asyncapi.py), from the tables."""

from collections import defaultdict
from typing import Any

from services.contracts.asyncapi import Channel
from services.contracts.asyncapi import document as written
from services.domain.messages import Command, Event
from services.styles import STYLES, runnable
from services.styles.exchanges import exchanges
from services.transports.formats import FORMATS


def channels() -> list[Channel]:
    """Every channel of every style, with what is said in it."""
    return [_channel(name) for name in sorted({name for style in STYLES.values() for name in style.topology})]


def _channel(name: str) -> Channel:
    using = [style for style in STYLES.values() if name in style.topology]
    said = defaultdict[str, set[type[Command | Event]]](set)
    for style in using:
        for exchange in exchanges(style):
            if exchange.channel == name:
                said[exchange.sender].add(exchange.message)
    return Channel(
        name,
        {sender: frozenset(messages) for sender, messages in said.items()},
        groups=frozenset().union(*(style.topology[name] for style in using)),
        styles=frozenset(style.name for style in using),
        transports=frozenset(transport for style in using for transport in runnable(style)),
    )


def document() -> dict[str, Any]:
    return written(channels(), {name: each.content_type for name, each in FORMATS.items()})
