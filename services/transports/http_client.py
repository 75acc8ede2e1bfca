"""HTTP as a caller has it, for the wires that ride on it.

Connections are shared and kept alive, a request whose kept connection turns out to be dead is sent once more, and what
goes wrong is said in the words of ``errors``.
"""

import asyncio
import contextlib
from collections.abc import Mapping
from typing import Any, NamedTuple

import httpx
from opentelemetry.instrumentation.httpx import HTTPXClientInstrumentor, RequestInfo
from opentelemetry.semconv._incubating.attributes.url_attributes import URL_TEMPLATE
from opentelemetry.semconv.attributes.http_attributes import HTTP_REQUEST_RESEND_COUNT
from opentelemetry.trace import Span

from services.telemetry import conventions as c
from services.telemetry.fixups import corrected
from services.telemetry.setup import meter_provider
from services.transports.errors import ConnectionBroken, DeadlineExceeded, PeerFailed, TransportError, Unavailable
from services.transports.ports import Wiring

KEEP_ALIVE_S = 30
"""An idle connection is given up before the server gives it up (``http.IDLE_S``)."""


class _LostError(ConnectionBroken):
    """On a connection used before: perhaps the server had closed it and never saw the request."""


class _About(NamedTuple):
    """What contrib's span is told of a request."""

    template: str
    order_id: str
    resend: bool


class HttpClient:
    """Requests to the peers of ``transport``. With ``spans``, contrib makes a CLIENT span of each."""

    def __init__(self, transport: str, wiring: Wiring, *, spans: bool = True) -> None:
        self._transport = transport
        self._wiring = wiring
        self._spans = spans
        self._native: httpx.AsyncClient | None = None

    @property
    def native(self) -> httpx.AsyncClient:
        if self._native is None:
            limits = httpx.Limits(max_connections=None, max_keepalive_connections=64, keepalive_expiry=KEEP_ALIVE_S)
            tls = self._wiring.tls
            self._native = httpx.AsyncClient(limits=limits, trust_env=False, verify=tls.client if tls else True)
            if self._spans:
                HTTPXClientInstrumentor.instrument_client(
                    self._native,
                    tracer_provider=corrected(self._wiring.telemetry, "httpx"),
                    meter_provider=meter_provider(),
                    request_hook=_describe,
                )
        return self._native

    def address(self, peer: str) -> str:
        """Where ``peer`` listens, as a URL without a path. Raises ``Unavailable``."""
        address = self._wiring.peers.get(peer, {}).get(self._transport)
        if address is None:
            raise Unavailable(f"{peer} has no address for {self._transport}")
        return address

    async def request(
        self,
        peer: str,
        method: str,
        path: str,
        body: bytes,
        headers: Mapping[str, str],
        *,
        timeout_s: float,
        template: str,
        order_id: str,
    ) -> httpx.Response:
        """The answer, whatever its status. The request must be one that may be repeated (RFC 9110, 9.2.2): one that
        dies on a kept-alive connection is sent once more. ``template`` is the path without what is variable.

        Raises a ``TransportError`` where no answer came within 1.1 x ``timeout_s``.
        """

        async def send(*, resend: bool) -> httpx.Response:
            about = _About(template, order_id, resend)
            return await self._send(peer, method, path, body, headers, timeout_s, about)

        try:
            async with asyncio.timeout(timeout_s * 1.1):
                try:
                    return await send(resend=False)
                except _LostError as lost:
                    try:
                        return await send(resend=True)
                    except Unavailable as error:  # now; but what of the first time?
                        raise ConnectionBroken(f"{lost}; then {error}") from error
        except TimeoutError:
            raise DeadlineExceeded(f"{peer} did not answer within {timeout_s:g} s") from None

    async def _send(
        self,
        peer: str,
        method: str,
        path: str,
        body: bytes,
        headers: Mapping[str, str],
        timeout_s: float,
        about: _About,
    ) -> httpx.Response:
        fresh = False

        async def watch(event: str, _: Any) -> None:
            nonlocal fresh
            fresh = fresh or event == "connection.connect_tcp.started"

        try:
            return await self.native.request(
                method,
                self.address(peer) + path,
                content=body,
                headers=headers,
                timeout=timeout_s,
                extensions={"trace": watch, "lab": about},
            )
        except (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout) as error:
            raise Unavailable(f"{peer} cannot be reached: {error or type(error).__name__}") from error
        except httpx.TimeoutException as error:
            raise DeadlineExceeded(f"{peer} did not answer within {timeout_s:g} s") from error
        except httpx.HTTPError as error:
            kind = ConnectionBroken if fresh else _LostError
            raise kind(f"{peer}: {error or type(error).__name__}") from error

    async def close(self) -> None:
        if self._native is not None:
            await self._native.aclose()


def failure(peer: str, response: httpx.Response) -> TransportError:
    """What an answer other than 200 means. Our own server says it when it drains and did nothing; a 503 of anyone
    between us says nothing of the kind."""
    problem: Any = None
    with contextlib.suppress(ValueError):
        problem = response.json()
    if not isinstance(problem, dict):
        problem = {}
    kind: type[TransportError] = Unavailable if problem.get("nothing_done") is True else PeerFailed
    if response.status_code == httpx.codes.GATEWAY_TIMEOUT:
        kind = DeadlineExceeded
    return kind(f"{peer} answered {response.status_code}: {str(problem.get('detail', response.reason_phrase))[:200]}")


async def _describe(span: Span, request: RequestInfo) -> None:
    about = (request.extensions or {}).get("lab")
    if isinstance(about, _About):
        span.update_name(f"{request.method.decode()} {about.template}")
        span.set_attributes({URL_TEMPLATE: about.template, c.LAB_ORDER_ID: about.order_id})
        if about.resend:
            span.set_attribute(HTTP_REQUEST_RESEND_COUNT, 1)
