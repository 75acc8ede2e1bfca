"""The domain's messages as JSON, without their type, and back: strict on the way in, but for fields that it does not
know, which are passed over."""

from pydantic import TypeAdapter, ValidationError

from services.contracts.validity import check, check_quote
from services.domain.messages import MESSAGES, Command, Event, Quote

_ADAPTERS: dict[type[Command | Event], TypeAdapter[Command | Event]] = {t: TypeAdapter(t) for t in MESSAGES.values()}
# what an adapter's own methods call, without the options that they look at
_WRITE = {t: adapter.serializer.to_json for t, adapter in _ADAPTERS.items()}
_READ = {t: adapter.validator.validate_json for t, adapter in _ADAPTERS.items()}


def dumps(payload: Command | Event) -> bytes:
    return _WRITE[type(payload)](payload)


def loads(message_type: type[Command | Event], body: bytes) -> Command | Event:
    """Raises ``ValueError`` with the first thing that is wrong."""
    try:
        payload: Command | Event = _READ[message_type](body, strict=True)
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False, include_input=False)[0]
        where = ".".join(str(part) for part in first["loc"]) or "body"
        raise ValueError(f"{where}: {first['msg']}") from None
    check(payload.order)
    if isinstance(payload, Quote):
        check_quote(payload)
    return payload
