"""The AsyncAPI document of all styles (services/contracts/asyncapi.py), from the tables."""

from collections import defaultdict
from typing import Any

from services.contracts.asyncapi import Channel, Messages
from services.contracts.asyncapi import document as written
from services.domain.messages import type_name
from services.styles import STYLES, runnable
from services.styles.exchanges import Exchange, exchanges
from services.styles.roles import Style
from services.transports.formats import FORMATS
from services.transports.ports import is_journal


def channels() -> list[Channel]:
    """Every channel of every style, with what is said in it."""
    said = {name: exchanges(style) for name, style in STYLES.items()}
    return [_channel(name, said) for name in sorted({name for style in STYLES.values() for name in style.channels})]


def _channel(name: str, held: dict[str, frozenset[Exchange]]) -> Channel:
    """``held`` has each style's conversation."""
    using = [style for style in STYLES.values() if name in style.channels]
    here = [(style, each) for style in using for each in held[style.name] if each.channel == name]
    said, asked = defaultdict[str, Messages](Messages), defaultdict[str, Messages](Messages)
    heard = {group: Messages() for style in using for group in style.channels[name]}
    for style, each in here:
        said[each.sender] |= {each.message}
        if each.reply_to:
            asked[each.sender] |= _answers(style, each, held[style.name])
        for group in heard:
            if group != each.sender and style.wants(group, type_name(each.message)):
                heard[group] |= {each.message}
    return Channel(
        name,
        said,
        heard,
        asked,
        replies=frozenset(each.reply_to for _, each in here if each.reply_to),
        styles=frozenset(style.name for style in using),
        transports=frozenset(
            transport
            for style in using
            for port, topology in style.topology.items()
            if name in topology
            for transport in runnable(style, port)
        ),
        kept=is_journal(name),
    )


def _answers(style: Style, request: Exchange, said: frozenset[Exchange]) -> Messages:
    """What those who hear ``request`` say on the channel that it names."""
    asked = style.channels[request.channel]
    return Messages(each.message for each in said if each.channel == request.reply_to and each.sender in asked)


def document() -> dict[str, Any]:
    return written(channels(), {name: each.content_type for name, each in FORMATS.items()})
