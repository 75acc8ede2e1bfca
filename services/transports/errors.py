"""What can go wrong on the wire, and whose fault it is.

::

    TransportError
    ├── Unavailable        the peer or broker could not be reached; nothing was done        (front door: 503)
    ├── DeadlineExceeded   no answer in time; whether it was done is unknown                (front door: 504)
    ├── ConnectionBroken   the connection ended in the middle; whether it was done is unknown         (503)
    ├── PeerFailed         the peer answered that it failed, in its protocol's own words              (503)
    └── Unroutable         the broker has nowhere to put the message
    Undecodable            bytes that are no message of ours: not a TransportError, never retried
"""


class TransportError(Exception):
    """The conversation failed, not the business: a refusal is an event, never an exception."""


class Unavailable(TransportError): ...


class DeadlineExceeded(TransportError): ...


class ConnectionBroken(TransportError): ...


class PeerFailed(TransportError): ...


class Unroutable(TransportError): ...


class Undecodable(ValueError):
    """``str()`` of it is the dead letter's reason: what is wrong with the bytes, in one line."""
