"""The trace of an order in each style and each shape, whole.

Where several speak at once the test says who is last, so that the same conversation is always drawn alike.
"""

# ruff: noqa: E501 (a deep tree is a wide one)
from collections.abc import AsyncIterator, Sequence

import pytest
import pytest_asyncio
from inline_snapshot import snapshot
from opentelemetry.sdk.trace import ReadableSpan

from services.styles import STYLES
from services.styles.roles import Style
from tests.services.lab import ORDER, tree
from tests.services.parts import eventually
from tests.styles.rig import CARRIER_SERVICES, SERVICES, Rig, rig

pytestmark = pytest.mark.asyncio(loop_scope="module")
SHAPES = ("both", "link", "parent")
every_shape = pytest.mark.parametrize("shape", SHAPES)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def _rig(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Rig]:
    async with rig(tmp_path_factory.mktemp("traces")) as running, running.orders():
        yield running


@pytest.fixture
def stage(_rig: Rig) -> Rig:
    _rig.worked.clear()
    return _rig


async def drawn(stage: Rig, name: str, shape: str, in_turn: Sequence[str] = ()) -> str:
    """The tree of an order of ``name`` that completes; ``in_turn`` end their work one after another."""
    await stage.reset(trace__shape=shape, quotes__deadline_s="60")
    await stage.quiet()
    stage.exporter.clear()
    stage.close(*in_turn)
    order_id = await stage.placed(ORDER, name)
    for service in in_turn:
        await eventually(lambda: service in stage.worked, f"{service} works")  # noqa: B023
        heard = len((await stage.order(order_id))["history"])
        stage.open(service)
        await eventually(lambda: _heard(stage, order_id, heard), f"orders has heard of {service}")  # noqa: B023
    assert (await stage.end(order_id))["state"] == "completed"
    spans = [span for span in stage.spans() if span.name != "GET /orders/{order_id}"]
    assert_connected(spans, shape, STYLES[name])
    return tree(spans)


async def _heard(stage: Rig, order_id: str, before: int) -> bool:
    return len((await stage.order(order_id))["history"]) > before


def assert_connected(spans: Sequence[ReadableSpan], shape: str, style: Style) -> None:
    """Every span is there once, none hangs on one that is not there, and no trace is without a way to the request."""
    by_id = {span.context.span_id: span for span in spans}
    assert len(by_id) == len(spans)
    assert all(span.parent is None or span.parent.span_id in by_id for span in spans), "an orphan"
    links = [(span, by_id[link.context.span_id]) for span in spans for link in span.links]
    (post,) = [span for span in spans if span.name == "POST /orders"]
    traces = {span.context.trace_id for span in spans}
    reached = {post.context.trace_id}
    for _ in traces:
        reached |= {span.context.trace_id for span, target in links if target.context.trace_id in reached}
    assert reached == traces, "a trace that leads nowhere"
    processes = [span for span in spans if span.name.startswith("process ")]
    linked = {span.context.span_id for span, _ in links}
    assert linked == (set() if shape == "parent" else {span.context.span_id for span in processes})
    assert len(traces) == (1 + len(processes) if shape == "link" else 1)
    assert bool(processes) == bool(style.channels)


@every_shape
async def test_request_response(stage: Rig, shape: str) -> None:
    assert (
        await drawn(stage, "request_response", shape)
        == snapshot(
            {
                "both": """\
POST /orders [orders SERVER] = completed
  inventory/reserve.stock [orders CLIENT]
    inventory/reserve.stock [inventory SERVER]
  payment/charge.payment [orders CLIENT]
    payment/charge.payment [payment SERVER]
  shipping/book.shipment [orders CLIENT]
    shipping/book.shipment [shipping SERVER]
  notifications/notify.customer [orders CLIENT]
    notifications/notify.customer [notifications SERVER]\
""",
                "link": """\
POST /orders [orders SERVER] = completed
  inventory/reserve.stock [orders CLIENT]
    inventory/reserve.stock [inventory SERVER]
  payment/charge.payment [orders CLIENT]
    payment/charge.payment [payment SERVER]
  shipping/book.shipment [orders CLIENT]
    shipping/book.shipment [shipping SERVER]
  notifications/notify.customer [orders CLIENT]
    notifications/notify.customer [notifications SERVER]\
""",
                "parent": """\
POST /orders [orders SERVER] = completed
  inventory/reserve.stock [orders CLIENT]
    inventory/reserve.stock [inventory SERVER]
  payment/charge.payment [orders CLIENT]
    payment/charge.payment [payment SERVER]
  shipping/book.shipment [orders CLIENT]
    shipping/book.shipment [shipping SERVER]
  notifications/notify.customer [orders CLIENT]
    notifications/notify.customer [notifications SERVER]\
""",
            }
        )[shape]
    )


@every_shape
async def test_async_request_response(stage: Rig, shape: str) -> None:
    assert (
        await drawn(stage, "async_request_response", shape)
        == snapshot(
            {
                "both": """\
POST /orders [orders SERVER]
  request inventory.commands [orders CLIENT]
    send inventory.commands [orders PRODUCER]
      queue inventory.commands [inventory INTERNAL]
      process inventory.commands [inventory CONSUMER] ⇠ send inventory.commands
        send orders.answers [inventory PRODUCER]
          queue orders.answers [orders INTERNAL]
          process orders.answers [orders CONSUMER] ⇠ send orders.answers
            ack orders.answers [orders CLIENT]
        ack inventory.commands [inventory CLIENT]
  request payment.commands [orders CLIENT]
    send payment.commands [orders PRODUCER]
      queue payment.commands [payment INTERNAL]
      process payment.commands [payment CONSUMER] ⇠ send payment.commands
        send orders.answers [payment PRODUCER]
          queue orders.answers [orders INTERNAL]
          process orders.answers [orders CONSUMER] ⇠ send orders.answers
            ack orders.answers [orders CLIENT]
        ack payment.commands [payment CLIENT]
  request shipping.commands [orders CLIENT]
    send shipping.commands [orders PRODUCER]
      queue shipping.commands [shipping INTERNAL]
      process shipping.commands [shipping CONSUMER] ⇠ send shipping.commands
        send orders.answers [shipping PRODUCER]
          queue orders.answers [orders INTERNAL]
          process orders.answers [orders CONSUMER] ⇠ send orders.answers
            ack orders.answers [orders CLIENT]
        ack shipping.commands [shipping CLIENT]
  request notifications.commands [orders CLIENT]
    send notifications.commands [orders PRODUCER]
      queue notifications.commands [notifications INTERNAL]
      process notifications.commands [notifications CONSUMER] ⇠ send notifications.commands
        send orders.answers [notifications PRODUCER]
          queue orders.answers [orders INTERNAL]
          process orders.answers [orders CONSUMER] = completed ⇠ send orders.answers
            ack orders.answers [orders CLIENT]
        ack notifications.commands [notifications CLIENT]\
""",
                "link": """\
POST /orders [orders SERVER]
  request inventory.commands [orders CLIENT]
    send inventory.commands [orders PRODUCER]
  request payment.commands [orders CLIENT]
    send payment.commands [orders PRODUCER]
  request shipping.commands [orders CLIENT]
    send shipping.commands [orders PRODUCER]
  request notifications.commands [orders CLIENT]
    send notifications.commands [orders PRODUCER]
process inventory.commands [inventory CONSUMER] ⇠ send inventory.commands (other trace)
  queue inventory.commands [inventory INTERNAL]
  send orders.answers [inventory PRODUCER]
  ack inventory.commands [inventory CLIENT]
process notifications.commands [notifications CONSUMER] ⇠ send notifications.commands (other trace)
  queue notifications.commands [notifications INTERNAL]
  send orders.answers [notifications PRODUCER]
  ack notifications.commands [notifications CLIENT]
process orders.answers [orders CONSUMER] = completed ⇠ send orders.answers (other trace)
  queue orders.answers [orders INTERNAL]
  ack orders.answers [orders CLIENT]
process orders.answers [orders CONSUMER] ⇠ send orders.answers (other trace)
  queue orders.answers [orders INTERNAL]
  ack orders.answers [orders CLIENT]
process orders.answers [orders CONSUMER] ⇠ send orders.answers (other trace)
  queue orders.answers [orders INTERNAL]
  ack orders.answers [orders CLIENT]
process orders.answers [orders CONSUMER] ⇠ send orders.answers (other trace)
  queue orders.answers [orders INTERNAL]
  ack orders.answers [orders CLIENT]
process payment.commands [payment CONSUMER] ⇠ send payment.commands (other trace)
  queue payment.commands [payment INTERNAL]
  send orders.answers [payment PRODUCER]
  ack payment.commands [payment CLIENT]
process shipping.commands [shipping CONSUMER] ⇠ send shipping.commands (other trace)
  queue shipping.commands [shipping INTERNAL]
  send orders.answers [shipping PRODUCER]
  ack shipping.commands [shipping CLIENT]\
""",
                "parent": """\
POST /orders [orders SERVER]
  request inventory.commands [orders CLIENT]
    send inventory.commands [orders PRODUCER]
      queue inventory.commands [inventory INTERNAL]
      process inventory.commands [inventory CONSUMER]
        send orders.answers [inventory PRODUCER]
          queue orders.answers [orders INTERNAL]
          process orders.answers [orders CONSUMER]
            ack orders.answers [orders CLIENT]
        ack inventory.commands [inventory CLIENT]
  request payment.commands [orders CLIENT]
    send payment.commands [orders PRODUCER]
      queue payment.commands [payment INTERNAL]
      process payment.commands [payment CONSUMER]
        send orders.answers [payment PRODUCER]
          queue orders.answers [orders INTERNAL]
          process orders.answers [orders CONSUMER]
            ack orders.answers [orders CLIENT]
        ack payment.commands [payment CLIENT]
  request shipping.commands [orders CLIENT]
    send shipping.commands [orders PRODUCER]
      queue shipping.commands [shipping INTERNAL]
      process shipping.commands [shipping CONSUMER]
        send orders.answers [shipping PRODUCER]
          queue orders.answers [orders INTERNAL]
          process orders.answers [orders CONSUMER]
            ack orders.answers [orders CLIENT]
        ack shipping.commands [shipping CLIENT]
  request notifications.commands [orders CLIENT]
    send notifications.commands [orders PRODUCER]
      queue notifications.commands [notifications INTERNAL]
      process notifications.commands [notifications CONSUMER]
        send orders.answers [notifications PRODUCER]
          queue orders.answers [orders INTERNAL]
          process orders.answers [orders CONSUMER] = completed
            ack orders.answers [orders CLIENT]
        ack notifications.commands [notifications CLIENT]\
""",
            }
        )[shape]
    )


@every_shape
async def test_notification(stage: Rig, shape: str) -> None:
    assert (
        await drawn(stage, "notification", shape)
        == snapshot(
            {
                "both": """\
POST /orders [orders SERVER] = completed
  inventory/reserve.stock [orders CLIENT]
    inventory/reserve.stock [inventory SERVER]
  payment/charge.payment [orders CLIENT]
    payment/charge.payment [payment SERVER]
  shipping/book.shipment [orders CLIENT]
    shipping/book.shipment [shipping SERVER]
  outbox orders [orders INTERNAL]
    send notifications.commands [orders PRODUCER]
      queue notifications.commands [notifications INTERNAL]
      process notifications.commands [notifications CONSUMER] ⇠ send notifications.commands
        ack notifications.commands [notifications CLIENT]\
""",
                "link": """\
POST /orders [orders SERVER] = completed
  inventory/reserve.stock [orders CLIENT]
    inventory/reserve.stock [inventory SERVER]
  payment/charge.payment [orders CLIENT]
    payment/charge.payment [payment SERVER]
  shipping/book.shipment [orders CLIENT]
    shipping/book.shipment [shipping SERVER]
  outbox orders [orders INTERNAL]
    send notifications.commands [orders PRODUCER]
process notifications.commands [notifications CONSUMER] ⇠ send notifications.commands (other trace)
  queue notifications.commands [notifications INTERNAL]
  ack notifications.commands [notifications CLIENT]\
""",
                "parent": """\
POST /orders [orders SERVER] = completed
  inventory/reserve.stock [orders CLIENT]
    inventory/reserve.stock [inventory SERVER]
  payment/charge.payment [orders CLIENT]
    payment/charge.payment [payment SERVER]
  shipping/book.shipment [orders CLIENT]
    shipping/book.shipment [shipping SERVER]
  outbox orders [orders INTERNAL]
    send notifications.commands [orders PRODUCER]
      queue notifications.commands [notifications INTERNAL]
      process notifications.commands [notifications CONSUMER]
        ack notifications.commands [notifications CLIENT]\
""",
            }
        )[shape]
    )


@every_shape
async def test_message_queue(stage: Rig, shape: str) -> None:
    assert (
        await drawn(stage, "message_queue", shape)
        == snapshot(
            {
                "both": """\
POST /orders [orders SERVER]
  outbox orders [orders INTERNAL]
    send inventory.commands [orders PRODUCER]
      queue inventory.commands [inventory INTERNAL]
      process inventory.commands [inventory CONSUMER] ⇠ send inventory.commands
        send orders.replies [inventory PRODUCER]
          queue orders.replies [orders INTERNAL]
          process orders.replies [orders CONSUMER] ⇠ send orders.replies
            ack orders.replies [orders CLIENT]
        send payment.commands [inventory PRODUCER]
          queue payment.commands [payment INTERNAL]
          process payment.commands [payment CONSUMER] ⇠ send payment.commands
            send orders.replies [payment PRODUCER]
              queue orders.replies [orders INTERNAL]
              process orders.replies [orders CONSUMER] ⇠ send orders.replies
                ack orders.replies [orders CLIENT]
            send shipping.commands [payment PRODUCER]
              queue shipping.commands [shipping INTERNAL]
              process shipping.commands [shipping CONSUMER] ⇠ send shipping.commands
                send orders.replies [shipping PRODUCER]
                  queue orders.replies [orders INTERNAL]
                  process orders.replies [orders CONSUMER] ⇠ send orders.replies
                    ack orders.replies [orders CLIENT]
                send notifications.commands [shipping PRODUCER]
                  queue notifications.commands [notifications INTERNAL]
                  process notifications.commands [notifications CONSUMER] ⇠ send notifications.commands
                    send orders.replies [notifications PRODUCER]
                      queue orders.replies [orders INTERNAL]
                      process orders.replies [orders CONSUMER] = completed ⇠ send orders.replies
                        ack orders.replies [orders CLIENT]
                    ack notifications.commands [notifications CLIENT]
                ack shipping.commands [shipping CLIENT]
            ack payment.commands [payment CLIENT]
        ack inventory.commands [inventory CLIENT]\
""",
                "link": """\
POST /orders [orders SERVER]
  outbox orders [orders INTERNAL]
    send inventory.commands [orders PRODUCER]
process inventory.commands [inventory CONSUMER] ⇠ send inventory.commands (other trace)
  queue inventory.commands [inventory INTERNAL]
  send orders.replies [inventory PRODUCER]
  send payment.commands [inventory PRODUCER]
  ack inventory.commands [inventory CLIENT]
process notifications.commands [notifications CONSUMER] ⇠ send notifications.commands (other trace)
  queue notifications.commands [notifications INTERNAL]
  send orders.replies [notifications PRODUCER]
  ack notifications.commands [notifications CLIENT]
process orders.replies [orders CONSUMER] = completed ⇠ send orders.replies (other trace)
  queue orders.replies [orders INTERNAL]
  ack orders.replies [orders CLIENT]
process orders.replies [orders CONSUMER] ⇠ send orders.replies (other trace)
  queue orders.replies [orders INTERNAL]
  ack orders.replies [orders CLIENT]
process orders.replies [orders CONSUMER] ⇠ send orders.replies (other trace)
  queue orders.replies [orders INTERNAL]
  ack orders.replies [orders CLIENT]
process orders.replies [orders CONSUMER] ⇠ send orders.replies (other trace)
  queue orders.replies [orders INTERNAL]
  ack orders.replies [orders CLIENT]
process payment.commands [payment CONSUMER] ⇠ send payment.commands (other trace)
  queue payment.commands [payment INTERNAL]
  send orders.replies [payment PRODUCER]
  send shipping.commands [payment PRODUCER]
  ack payment.commands [payment CLIENT]
process shipping.commands [shipping CONSUMER] ⇠ send shipping.commands (other trace)
  queue shipping.commands [shipping INTERNAL]
  send orders.replies [shipping PRODUCER]
  send notifications.commands [shipping PRODUCER]
  ack shipping.commands [shipping CLIENT]\
""",
                "parent": """\
POST /orders [orders SERVER]
  outbox orders [orders INTERNAL]
    send inventory.commands [orders PRODUCER]
      queue inventory.commands [inventory INTERNAL]
      process inventory.commands [inventory CONSUMER]
        send orders.replies [inventory PRODUCER]
          queue orders.replies [orders INTERNAL]
          process orders.replies [orders CONSUMER]
            ack orders.replies [orders CLIENT]
        send payment.commands [inventory PRODUCER]
          queue payment.commands [payment INTERNAL]
          process payment.commands [payment CONSUMER]
            send orders.replies [payment PRODUCER]
              queue orders.replies [orders INTERNAL]
              process orders.replies [orders CONSUMER]
                ack orders.replies [orders CLIENT]
            send shipping.commands [payment PRODUCER]
              queue shipping.commands [shipping INTERNAL]
              process shipping.commands [shipping CONSUMER]
                send orders.replies [shipping PRODUCER]
                  queue orders.replies [orders INTERNAL]
                  process orders.replies [orders CONSUMER]
                    ack orders.replies [orders CLIENT]
                send notifications.commands [shipping PRODUCER]
                  queue notifications.commands [notifications INTERNAL]
                  process notifications.commands [notifications CONSUMER]
                    send orders.replies [notifications PRODUCER]
                      queue orders.replies [orders INTERNAL]
                      process orders.replies [orders CONSUMER] = completed
                        ack orders.replies [orders CLIENT]
                    ack notifications.commands [notifications CLIENT]
                ack shipping.commands [shipping CLIENT]
            ack payment.commands [payment CLIENT]
        ack inventory.commands [inventory CLIENT]\
""",
            }
        )[shape]
    )


@every_shape
async def test_publish_subscribe(stage: Rig, shape: str) -> None:
    assert (
        await drawn(stage, "publish_subscribe", shape, SERVICES)
        == snapshot(
            {
                "both": """\
POST /orders [orders SERVER]
  outbox orders [orders INTERNAL]
    send orders.announcements [orders PRODUCER]
      queue orders.announcements [inventory INTERNAL]
      queue orders.announcements [notifications INTERNAL]
      queue orders.announcements [payment INTERNAL]
      queue orders.announcements [shipping INTERNAL]
      process orders.announcements [inventory CONSUMER] ⇠ send orders.announcements
        send orders.reactions [inventory PRODUCER]
          queue orders.reactions [orders INTERNAL]
          process orders.reactions [orders CONSUMER] ⇠ send orders.reactions
            ack orders.reactions [orders CLIENT]
        ack orders.announcements [inventory CLIENT]
      process orders.announcements [notifications CONSUMER] ⇠ send orders.announcements
        send orders.reactions [notifications PRODUCER]
          queue orders.reactions [orders INTERNAL]
          process orders.reactions [orders CONSUMER] = completed ⇠ send orders.reactions
            ack orders.reactions [orders CLIENT]
        ack orders.announcements [notifications CLIENT]
      process orders.announcements [payment CONSUMER] ⇠ send orders.announcements
        send orders.reactions [payment PRODUCER]
          queue orders.reactions [orders INTERNAL]
          process orders.reactions [orders CONSUMER] ⇠ send orders.reactions
            ack orders.reactions [orders CLIENT]
        ack orders.announcements [payment CLIENT]
      process orders.announcements [shipping CONSUMER] ⇠ send orders.announcements
        send orders.reactions [shipping PRODUCER]
          queue orders.reactions [orders INTERNAL]
          process orders.reactions [orders CONSUMER] ⇠ send orders.reactions
            ack orders.reactions [orders CLIENT]
        ack orders.announcements [shipping CLIENT]\
""",
                "link": """\
POST /orders [orders SERVER]
  outbox orders [orders INTERNAL]
    send orders.announcements [orders PRODUCER]
process orders.announcements [inventory CONSUMER] ⇠ send orders.announcements (other trace)
  queue orders.announcements [inventory INTERNAL]
  send orders.reactions [inventory PRODUCER]
  ack orders.announcements [inventory CLIENT]
process orders.announcements [notifications CONSUMER] ⇠ send orders.announcements (other trace)
  queue orders.announcements [notifications INTERNAL]
  send orders.reactions [notifications PRODUCER]
  ack orders.announcements [notifications CLIENT]
process orders.announcements [payment CONSUMER] ⇠ send orders.announcements (other trace)
  queue orders.announcements [payment INTERNAL]
  send orders.reactions [payment PRODUCER]
  ack orders.announcements [payment CLIENT]
process orders.announcements [shipping CONSUMER] ⇠ send orders.announcements (other trace)
  queue orders.announcements [shipping INTERNAL]
  send orders.reactions [shipping PRODUCER]
  ack orders.announcements [shipping CLIENT]
process orders.reactions [orders CONSUMER] = completed ⇠ send orders.reactions (other trace)
  queue orders.reactions [orders INTERNAL]
  ack orders.reactions [orders CLIENT]
process orders.reactions [orders CONSUMER] ⇠ send orders.reactions (other trace)
  queue orders.reactions [orders INTERNAL]
  ack orders.reactions [orders CLIENT]
process orders.reactions [orders CONSUMER] ⇠ send orders.reactions (other trace)
  queue orders.reactions [orders INTERNAL]
  ack orders.reactions [orders CLIENT]
process orders.reactions [orders CONSUMER] ⇠ send orders.reactions (other trace)
  queue orders.reactions [orders INTERNAL]
  ack orders.reactions [orders CLIENT]\
""",
                "parent": """\
POST /orders [orders SERVER]
  outbox orders [orders INTERNAL]
    send orders.announcements [orders PRODUCER]
      queue orders.announcements [inventory INTERNAL]
      queue orders.announcements [notifications INTERNAL]
      queue orders.announcements [payment INTERNAL]
      queue orders.announcements [shipping INTERNAL]
      process orders.announcements [inventory CONSUMER]
        send orders.reactions [inventory PRODUCER]
          queue orders.reactions [orders INTERNAL]
          process orders.reactions [orders CONSUMER]
            ack orders.reactions [orders CLIENT]
        ack orders.announcements [inventory CLIENT]
      process orders.announcements [notifications CONSUMER]
        send orders.reactions [notifications PRODUCER]
          queue orders.reactions [orders INTERNAL]
          process orders.reactions [orders CONSUMER] = completed
            ack orders.reactions [orders CLIENT]
        ack orders.announcements [notifications CLIENT]
      process orders.announcements [payment CONSUMER]
        send orders.reactions [payment PRODUCER]
          queue orders.reactions [orders INTERNAL]
          process orders.reactions [orders CONSUMER]
            ack orders.reactions [orders CLIENT]
        ack orders.announcements [payment CLIENT]
      process orders.announcements [shipping CONSUMER]
        send orders.reactions [shipping PRODUCER]
          queue orders.reactions [orders INTERNAL]
          process orders.reactions [orders CONSUMER]
            ack orders.reactions [orders CLIENT]
        ack orders.announcements [shipping CLIENT]\
""",
            }
        )[shape]
    )


@every_shape
async def test_publish_async_responses(stage: Rig, shape: str) -> None:
    assert (
        await drawn(stage, "publish_async_responses", shape, CARRIER_SERVICES)
        == snapshot(
            {
                "both": """\
POST /orders [orders SERVER]
  outbox orders [orders INTERNAL]
    send orders.inquiries [orders PRODUCER]
      queue orders.inquiries [carrier-frugal INTERNAL]
      queue orders.inquiries [carrier-steady INTERNAL]
      queue orders.inquiries [carrier-swift INTERNAL]
      process orders.inquiries [carrier-frugal CONSUMER] ⇠ send orders.inquiries
        send carriers.answers [carrier-frugal PRODUCER]
          queue carriers.answers [orders INTERNAL]
          process carriers.answers [orders CONSUMER] ⇠ send carriers.answers
            outbox orders [orders INTERNAL]
              send orders.events [orders PRODUCER]
                queue orders.events [inventory INTERNAL]
                process orders.events [inventory CONSUMER] ⇠ send orders.events
                  send inventory.events [inventory PRODUCER]
                    queue inventory.events [orders INTERNAL]
                    queue inventory.events [payment INTERNAL]
                    process inventory.events [orders CONSUMER] ⇠ send inventory.events
                      ack inventory.events [orders CLIENT]
                    process inventory.events [payment CONSUMER] ⇠ send inventory.events
                      send payment.events [payment PRODUCER]
                        queue payment.events [inventory INTERNAL]
                        queue payment.events [orders INTERNAL]
                        queue payment.events [shipping INTERNAL]
                        process payment.events [inventory CONSUMER] ⇠ send payment.events
                          ack payment.events [inventory CLIENT]
                        process payment.events [orders CONSUMER] ⇠ send payment.events
                          ack payment.events [orders CLIENT]
                        process payment.events [shipping CONSUMER] ⇠ send payment.events
                          send shipping.events [shipping PRODUCER]
                            queue shipping.events [notifications INTERNAL]
                            queue shipping.events [orders INTERNAL]
                            queue shipping.events [payment INTERNAL]
                            process shipping.events [notifications CONSUMER] ⇠ send shipping.events
                              send notifications.events [notifications PRODUCER]
                                queue notifications.events [orders INTERNAL]
                                queue notifications.events [shipping INTERNAL]
                                process notifications.events [orders CONSUMER] = completed ⇠ send notifications.events
                                  ack notifications.events [orders CLIENT]
                                process notifications.events [shipping CONSUMER] ⇠ send notifications.events
                                  ack notifications.events [shipping CLIENT]
                              ack shipping.events [notifications CLIENT]
                            process shipping.events [orders CONSUMER] ⇠ send shipping.events
                              ack shipping.events [orders CLIENT]
                            process shipping.events [payment CONSUMER] ⇠ send shipping.events
                              ack shipping.events [payment CLIENT]
                          ack payment.events [shipping CLIENT]
                      ack inventory.events [payment CLIENT]
                  ack orders.events [inventory CLIENT]
            ack carriers.answers [orders CLIENT]
        ack orders.inquiries [carrier-frugal CLIENT]
      process orders.inquiries [carrier-steady CONSUMER] ⇠ send orders.inquiries
        send carriers.answers [carrier-steady PRODUCER]
          queue carriers.answers [orders INTERNAL]
          process carriers.answers [orders CONSUMER] ⇠ send carriers.answers
            ack carriers.answers [orders CLIENT]
        ack orders.inquiries [carrier-steady CLIENT]
      process orders.inquiries [carrier-swift CONSUMER] ⇠ send orders.inquiries
        send carriers.answers [carrier-swift PRODUCER]
          queue carriers.answers [orders INTERNAL]
          process carriers.answers [orders CONSUMER] ⇠ send carriers.answers
            ack carriers.answers [orders CLIENT]
        ack orders.inquiries [carrier-swift CLIENT]\
""",
                "link": """\
POST /orders [orders SERVER]
  outbox orders [orders INTERNAL]
    send orders.inquiries [orders PRODUCER]
process carriers.answers [orders CONSUMER] ⇠ send carriers.answers (other trace)
  queue carriers.answers [orders INTERNAL]
  ack carriers.answers [orders CLIENT]
process carriers.answers [orders CONSUMER] ⇠ send carriers.answers (other trace)
  queue carriers.answers [orders INTERNAL]
  ack carriers.answers [orders CLIENT]
process carriers.answers [orders CONSUMER] ⇠ send carriers.answers (other trace)
  queue carriers.answers [orders INTERNAL]
  outbox orders [orders INTERNAL]
    send orders.events [orders PRODUCER]
  ack carriers.answers [orders CLIENT]
process inventory.events [orders CONSUMER] ⇠ send inventory.events (other trace)
  queue inventory.events [orders INTERNAL]
  ack inventory.events [orders CLIENT]
process inventory.events [payment CONSUMER] ⇠ send inventory.events (other trace)
  queue inventory.events [payment INTERNAL]
  send payment.events [payment PRODUCER]
  ack inventory.events [payment CLIENT]
process notifications.events [orders CONSUMER] = completed ⇠ send notifications.events (other trace)
  queue notifications.events [orders INTERNAL]
  ack notifications.events [orders CLIENT]
process notifications.events [shipping CONSUMER] ⇠ send notifications.events (other trace)
  queue notifications.events [shipping INTERNAL]
  ack notifications.events [shipping CLIENT]
process orders.events [inventory CONSUMER] ⇠ send orders.events (other trace)
  queue orders.events [inventory INTERNAL]
  send inventory.events [inventory PRODUCER]
  ack orders.events [inventory CLIENT]
process orders.inquiries [carrier-frugal CONSUMER] ⇠ send orders.inquiries (other trace)
  queue orders.inquiries [carrier-frugal INTERNAL]
  send carriers.answers [carrier-frugal PRODUCER]
  ack orders.inquiries [carrier-frugal CLIENT]
process orders.inquiries [carrier-steady CONSUMER] ⇠ send orders.inquiries (other trace)
  queue orders.inquiries [carrier-steady INTERNAL]
  send carriers.answers [carrier-steady PRODUCER]
  ack orders.inquiries [carrier-steady CLIENT]
process orders.inquiries [carrier-swift CONSUMER] ⇠ send orders.inquiries (other trace)
  queue orders.inquiries [carrier-swift INTERNAL]
  send carriers.answers [carrier-swift PRODUCER]
  ack orders.inquiries [carrier-swift CLIENT]
process payment.events [inventory CONSUMER] ⇠ send payment.events (other trace)
  queue payment.events [inventory INTERNAL]
  ack payment.events [inventory CLIENT]
process payment.events [orders CONSUMER] ⇠ send payment.events (other trace)
  queue payment.events [orders INTERNAL]
  ack payment.events [orders CLIENT]
process payment.events [shipping CONSUMER] ⇠ send payment.events (other trace)
  queue payment.events [shipping INTERNAL]
  send shipping.events [shipping PRODUCER]
  ack payment.events [shipping CLIENT]
process shipping.events [notifications CONSUMER] ⇠ send shipping.events (other trace)
  queue shipping.events [notifications INTERNAL]
  send notifications.events [notifications PRODUCER]
  ack shipping.events [notifications CLIENT]
process shipping.events [orders CONSUMER] ⇠ send shipping.events (other trace)
  queue shipping.events [orders INTERNAL]
  ack shipping.events [orders CLIENT]
process shipping.events [payment CONSUMER] ⇠ send shipping.events (other trace)
  queue shipping.events [payment INTERNAL]
  ack shipping.events [payment CLIENT]\
""",
                "parent": """\
POST /orders [orders SERVER]
  outbox orders [orders INTERNAL]
    send orders.inquiries [orders PRODUCER]
      queue orders.inquiries [carrier-frugal INTERNAL]
      queue orders.inquiries [carrier-steady INTERNAL]
      queue orders.inquiries [carrier-swift INTERNAL]
      process orders.inquiries [carrier-frugal CONSUMER]
        send carriers.answers [carrier-frugal PRODUCER]
          queue carriers.answers [orders INTERNAL]
          process carriers.answers [orders CONSUMER]
            outbox orders [orders INTERNAL]
              send orders.events [orders PRODUCER]
                queue orders.events [inventory INTERNAL]
                process orders.events [inventory CONSUMER]
                  send inventory.events [inventory PRODUCER]
                    queue inventory.events [orders INTERNAL]
                    queue inventory.events [payment INTERNAL]
                    process inventory.events [orders CONSUMER]
                      ack inventory.events [orders CLIENT]
                    process inventory.events [payment CONSUMER]
                      send payment.events [payment PRODUCER]
                        queue payment.events [inventory INTERNAL]
                        queue payment.events [orders INTERNAL]
                        queue payment.events [shipping INTERNAL]
                        process payment.events [inventory CONSUMER]
                          ack payment.events [inventory CLIENT]
                        process payment.events [orders CONSUMER]
                          ack payment.events [orders CLIENT]
                        process payment.events [shipping CONSUMER]
                          send shipping.events [shipping PRODUCER]
                            queue shipping.events [notifications INTERNAL]
                            queue shipping.events [orders INTERNAL]
                            queue shipping.events [payment INTERNAL]
                            process shipping.events [notifications CONSUMER]
                              send notifications.events [notifications PRODUCER]
                                queue notifications.events [orders INTERNAL]
                                queue notifications.events [shipping INTERNAL]
                                process notifications.events [orders CONSUMER] = completed
                                  ack notifications.events [orders CLIENT]
                                process notifications.events [shipping CONSUMER]
                                  ack notifications.events [shipping CLIENT]
                              ack shipping.events [notifications CLIENT]
                            process shipping.events [orders CONSUMER]
                              ack shipping.events [orders CLIENT]
                            process shipping.events [payment CONSUMER]
                              ack shipping.events [payment CLIENT]
                          ack payment.events [shipping CLIENT]
                      ack inventory.events [payment CLIENT]
                  ack orders.events [inventory CLIENT]
            ack carriers.answers [orders CLIENT]
        ack orders.inquiries [carrier-frugal CLIENT]
      process orders.inquiries [carrier-steady CONSUMER]
        send carriers.answers [carrier-steady PRODUCER]
          queue carriers.answers [orders INTERNAL]
          process carriers.answers [orders CONSUMER]
            ack carriers.answers [orders CLIENT]
        ack orders.inquiries [carrier-steady CLIENT]
      process orders.inquiries [carrier-swift CONSUMER]
        send carriers.answers [carrier-swift PRODUCER]
          queue carriers.answers [orders INTERNAL]
          process carriers.answers [orders CONSUMER]
            ack carriers.answers [orders CLIENT]
        ack orders.inquiries [carrier-swift CLIENT]\
""",
            }
        )[shape]
    )


@every_shape
async def test_choreography(stage: Rig, shape: str) -> None:
    assert (
        await drawn(stage, "choreography", shape)
        == snapshot(
            {
                "both": """\
POST /orders [orders SERVER]
  outbox orders [orders INTERNAL]
    send orders.events [orders PRODUCER]
      queue orders.events [inventory INTERNAL]
      process orders.events [inventory CONSUMER] ⇠ send orders.events
        send inventory.events [inventory PRODUCER]
          queue inventory.events [orders INTERNAL]
          queue inventory.events [payment INTERNAL]
          process inventory.events [orders CONSUMER] ⇠ send inventory.events
            ack inventory.events [orders CLIENT]
          process inventory.events [payment CONSUMER] ⇠ send inventory.events
            send payment.events [payment PRODUCER]
              queue payment.events [inventory INTERNAL]
              queue payment.events [orders INTERNAL]
              queue payment.events [shipping INTERNAL]
              process payment.events [inventory CONSUMER] ⇠ send payment.events
                ack payment.events [inventory CLIENT]
              process payment.events [orders CONSUMER] ⇠ send payment.events
                ack payment.events [orders CLIENT]
              process payment.events [shipping CONSUMER] ⇠ send payment.events
                send shipping.events [shipping PRODUCER]
                  queue shipping.events [notifications INTERNAL]
                  queue shipping.events [orders INTERNAL]
                  queue shipping.events [payment INTERNAL]
                  process shipping.events [notifications CONSUMER] ⇠ send shipping.events
                    send notifications.events [notifications PRODUCER]
                      queue notifications.events [orders INTERNAL]
                      queue notifications.events [shipping INTERNAL]
                      process notifications.events [orders CONSUMER] = completed ⇠ send notifications.events
                        ack notifications.events [orders CLIENT]
                      process notifications.events [shipping CONSUMER] ⇠ send notifications.events
                        ack notifications.events [shipping CLIENT]
                    ack shipping.events [notifications CLIENT]
                  process shipping.events [orders CONSUMER] ⇠ send shipping.events
                    ack shipping.events [orders CLIENT]
                  process shipping.events [payment CONSUMER] ⇠ send shipping.events
                    ack shipping.events [payment CLIENT]
                ack payment.events [shipping CLIENT]
            ack inventory.events [payment CLIENT]
        ack orders.events [inventory CLIENT]\
""",
                "link": """\
POST /orders [orders SERVER]
  outbox orders [orders INTERNAL]
    send orders.events [orders PRODUCER]
process inventory.events [orders CONSUMER] ⇠ send inventory.events (other trace)
  queue inventory.events [orders INTERNAL]
  ack inventory.events [orders CLIENT]
process inventory.events [payment CONSUMER] ⇠ send inventory.events (other trace)
  queue inventory.events [payment INTERNAL]
  send payment.events [payment PRODUCER]
  ack inventory.events [payment CLIENT]
process notifications.events [orders CONSUMER] = completed ⇠ send notifications.events (other trace)
  queue notifications.events [orders INTERNAL]
  ack notifications.events [orders CLIENT]
process notifications.events [shipping CONSUMER] ⇠ send notifications.events (other trace)
  queue notifications.events [shipping INTERNAL]
  ack notifications.events [shipping CLIENT]
process orders.events [inventory CONSUMER] ⇠ send orders.events (other trace)
  queue orders.events [inventory INTERNAL]
  send inventory.events [inventory PRODUCER]
  ack orders.events [inventory CLIENT]
process payment.events [inventory CONSUMER] ⇠ send payment.events (other trace)
  queue payment.events [inventory INTERNAL]
  ack payment.events [inventory CLIENT]
process payment.events [orders CONSUMER] ⇠ send payment.events (other trace)
  queue payment.events [orders INTERNAL]
  ack payment.events [orders CLIENT]
process payment.events [shipping CONSUMER] ⇠ send payment.events (other trace)
  queue payment.events [shipping INTERNAL]
  send shipping.events [shipping PRODUCER]
  ack payment.events [shipping CLIENT]
process shipping.events [notifications CONSUMER] ⇠ send shipping.events (other trace)
  queue shipping.events [notifications INTERNAL]
  send notifications.events [notifications PRODUCER]
  ack shipping.events [notifications CLIENT]
process shipping.events [orders CONSUMER] ⇠ send shipping.events (other trace)
  queue shipping.events [orders INTERNAL]
  ack shipping.events [orders CLIENT]
process shipping.events [payment CONSUMER] ⇠ send shipping.events (other trace)
  queue shipping.events [payment INTERNAL]
  ack shipping.events [payment CLIENT]\
""",
                "parent": """\
POST /orders [orders SERVER]
  outbox orders [orders INTERNAL]
    send orders.events [orders PRODUCER]
      queue orders.events [inventory INTERNAL]
      process orders.events [inventory CONSUMER]
        send inventory.events [inventory PRODUCER]
          queue inventory.events [orders INTERNAL]
          queue inventory.events [payment INTERNAL]
          process inventory.events [orders CONSUMER]
            ack inventory.events [orders CLIENT]
          process inventory.events [payment CONSUMER]
            send payment.events [payment PRODUCER]
              queue payment.events [inventory INTERNAL]
              queue payment.events [orders INTERNAL]
              queue payment.events [shipping INTERNAL]
              process payment.events [inventory CONSUMER]
                ack payment.events [inventory CLIENT]
              process payment.events [orders CONSUMER]
                ack payment.events [orders CLIENT]
              process payment.events [shipping CONSUMER]
                send shipping.events [shipping PRODUCER]
                  queue shipping.events [notifications INTERNAL]
                  queue shipping.events [orders INTERNAL]
                  queue shipping.events [payment INTERNAL]
                  process shipping.events [notifications CONSUMER]
                    send notifications.events [notifications PRODUCER]
                      queue notifications.events [orders INTERNAL]
                      queue notifications.events [shipping INTERNAL]
                      process notifications.events [orders CONSUMER] = completed
                        ack notifications.events [orders CLIENT]
                      process notifications.events [shipping CONSUMER]
                        ack notifications.events [shipping CLIENT]
                    ack shipping.events [notifications CLIENT]
                  process shipping.events [orders CONSUMER]
                    ack shipping.events [orders CLIENT]
                  process shipping.events [payment CONSUMER]
                    ack shipping.events [payment CLIENT]
                ack payment.events [shipping CLIENT]
            ack inventory.events [payment CLIENT]
        ack orders.events [inventory CLIENT]\
""",
            }
        )[shape]
    )


@every_shape
async def test_orchestration(stage: Rig, shape: str) -> None:
    assert (
        await drawn(stage, "orchestration", shape)
        == snapshot(
            {
                "both": """\
POST /orders [orders SERVER]
  outbox orders [orders INTERNAL]
    send inventory.commands [orders PRODUCER]
      queue inventory.commands [inventory INTERNAL]
      process inventory.commands [inventory CONSUMER] ⇠ send inventory.commands
        send orders.replies [inventory PRODUCER]
          queue orders.replies [orders INTERNAL]
          process orders.replies [orders CONSUMER] ⇠ send orders.replies
            outbox orders [orders INTERNAL]
              send payment.commands [orders PRODUCER]
                queue payment.commands [payment INTERNAL]
                process payment.commands [payment CONSUMER] ⇠ send payment.commands
                  send orders.replies [payment PRODUCER]
                    queue orders.replies [orders INTERNAL]
                    process orders.replies [orders CONSUMER] ⇠ send orders.replies
                      outbox orders [orders INTERNAL]
                        send shipping.commands [orders PRODUCER]
                          queue shipping.commands [shipping INTERNAL]
                          process shipping.commands [shipping CONSUMER] ⇠ send shipping.commands
                            send orders.replies [shipping PRODUCER]
                              queue orders.replies [orders INTERNAL]
                              process orders.replies [orders CONSUMER] ⇠ send orders.replies
                                outbox orders [orders INTERNAL]
                                  send notifications.commands [orders PRODUCER]
                                    queue notifications.commands [notifications INTERNAL]
                                    process notifications.commands [notifications CONSUMER] ⇠ send notifications.commands
                                      send orders.replies [notifications PRODUCER]
                                        queue orders.replies [orders INTERNAL]
                                        process orders.replies [orders CONSUMER] = completed ⇠ send orders.replies
                                          ack orders.replies [orders CLIENT]
                                      ack notifications.commands [notifications CLIENT]
                                ack orders.replies [orders CLIENT]
                            ack shipping.commands [shipping CLIENT]
                      ack orders.replies [orders CLIENT]
                  ack payment.commands [payment CLIENT]
            ack orders.replies [orders CLIENT]
        ack inventory.commands [inventory CLIENT]\
""",
                "link": """\
POST /orders [orders SERVER]
  outbox orders [orders INTERNAL]
    send inventory.commands [orders PRODUCER]
process inventory.commands [inventory CONSUMER] ⇠ send inventory.commands (other trace)
  queue inventory.commands [inventory INTERNAL]
  send orders.replies [inventory PRODUCER]
  ack inventory.commands [inventory CLIENT]
process notifications.commands [notifications CONSUMER] ⇠ send notifications.commands (other trace)
  queue notifications.commands [notifications INTERNAL]
  send orders.replies [notifications PRODUCER]
  ack notifications.commands [notifications CLIENT]
process orders.replies [orders CONSUMER] = completed ⇠ send orders.replies (other trace)
  queue orders.replies [orders INTERNAL]
  ack orders.replies [orders CLIENT]
process orders.replies [orders CONSUMER] ⇠ send orders.replies (other trace)
  queue orders.replies [orders INTERNAL]
  outbox orders [orders INTERNAL]
    send notifications.commands [orders PRODUCER]
  ack orders.replies [orders CLIENT]
process orders.replies [orders CONSUMER] ⇠ send orders.replies (other trace)
  queue orders.replies [orders INTERNAL]
  outbox orders [orders INTERNAL]
    send payment.commands [orders PRODUCER]
  ack orders.replies [orders CLIENT]
process orders.replies [orders CONSUMER] ⇠ send orders.replies (other trace)
  queue orders.replies [orders INTERNAL]
  outbox orders [orders INTERNAL]
    send shipping.commands [orders PRODUCER]
  ack orders.replies [orders CLIENT]
process payment.commands [payment CONSUMER] ⇠ send payment.commands (other trace)
  queue payment.commands [payment INTERNAL]
  send orders.replies [payment PRODUCER]
  ack payment.commands [payment CLIENT]
process shipping.commands [shipping CONSUMER] ⇠ send shipping.commands (other trace)
  queue shipping.commands [shipping INTERNAL]
  send orders.replies [shipping PRODUCER]
  ack shipping.commands [shipping CLIENT]\
""",
                "parent": """\
POST /orders [orders SERVER]
  outbox orders [orders INTERNAL]
    send inventory.commands [orders PRODUCER]
      queue inventory.commands [inventory INTERNAL]
      process inventory.commands [inventory CONSUMER]
        send orders.replies [inventory PRODUCER]
          queue orders.replies [orders INTERNAL]
          process orders.replies [orders CONSUMER]
            outbox orders [orders INTERNAL]
              send payment.commands [orders PRODUCER]
                queue payment.commands [payment INTERNAL]
                process payment.commands [payment CONSUMER]
                  send orders.replies [payment PRODUCER]
                    queue orders.replies [orders INTERNAL]
                    process orders.replies [orders CONSUMER]
                      outbox orders [orders INTERNAL]
                        send shipping.commands [orders PRODUCER]
                          queue shipping.commands [shipping INTERNAL]
                          process shipping.commands [shipping CONSUMER]
                            send orders.replies [shipping PRODUCER]
                              queue orders.replies [orders INTERNAL]
                              process orders.replies [orders CONSUMER]
                                outbox orders [orders INTERNAL]
                                  send notifications.commands [orders PRODUCER]
                                    queue notifications.commands [notifications INTERNAL]
                                    process notifications.commands [notifications CONSUMER]
                                      send orders.replies [notifications PRODUCER]
                                        queue orders.replies [orders INTERNAL]
                                        process orders.replies [orders CONSUMER] = completed
                                          ack orders.replies [orders CLIENT]
                                      ack notifications.commands [notifications CLIENT]
                                ack orders.replies [orders CLIENT]
                            ack shipping.commands [shipping CLIENT]
                      ack orders.replies [orders CLIENT]
                  ack payment.commands [payment CLIENT]
            ack orders.replies [orders CLIENT]
        ack inventory.commands [inventory CLIENT]\
""",
            }
        )[shape]
    )


@every_shape
async def test_event_sourcing(stage: Rig, shape: str) -> None:
    assert (
        await drawn(stage, "event_sourcing", shape)
        == snapshot(
            {
                "both": """\
POST /orders [orders SERVER]
  outbox orders [orders INTERNAL]
    send orders.journal [orders PRODUCER]
      queue orders.journal [inventory INTERNAL]
      queue orders.journal [ledger INTERNAL]
      process orders.journal [inventory CONSUMER] ⇠ send orders.journal
        send orders.journal [inventory PRODUCER]
          queue orders.journal [ledger INTERNAL]
          queue orders.journal [orders INTERNAL]
          queue orders.journal [payment INTERNAL]
          process orders.journal [ledger CONSUMER] ⇠ send orders.journal
            ack orders.journal [ledger CLIENT]
          process orders.journal [orders CONSUMER] ⇠ send orders.journal
            ack orders.journal [orders CLIENT]
          process orders.journal [payment CONSUMER] ⇠ send orders.journal
            send orders.journal [payment PRODUCER]
              queue orders.journal [ledger INTERNAL]
              queue orders.journal [orders INTERNAL]
              queue orders.journal [shipping INTERNAL]
              process orders.journal [ledger CONSUMER] ⇠ send orders.journal
                ack orders.journal [ledger CLIENT]
              process orders.journal [orders CONSUMER] ⇠ send orders.journal
                ack orders.journal [orders CLIENT]
              process orders.journal [shipping CONSUMER] ⇠ send orders.journal
                send orders.journal [shipping PRODUCER]
                  queue orders.journal [ledger INTERNAL]
                  queue orders.journal [notifications INTERNAL]
                  queue orders.journal [orders INTERNAL]
                  process orders.journal [ledger CONSUMER] ⇠ send orders.journal
                    ack orders.journal [ledger CLIENT]
                  process orders.journal [notifications CONSUMER] ⇠ send orders.journal
                    send orders.journal [notifications PRODUCER]
                      queue orders.journal [ledger INTERNAL]
                      queue orders.journal [orders INTERNAL]
                      process orders.journal [ledger CONSUMER] ⇠ send orders.journal
                        ack orders.journal [ledger CLIENT]
                      process orders.journal [orders CONSUMER] = completed ⇠ send orders.journal
                        ack orders.journal [orders CLIENT]
                    ack orders.journal [notifications CLIENT]
                  process orders.journal [orders CONSUMER] ⇠ send orders.journal
                    ack orders.journal [orders CLIENT]
                ack orders.journal [shipping CLIENT]
            ack orders.journal [payment CLIENT]
        ack orders.journal [inventory CLIENT]
      process orders.journal [ledger CONSUMER] ⇠ send orders.journal
        ack orders.journal [ledger CLIENT]\
""",
                "link": """\
POST /orders [orders SERVER]
  outbox orders [orders INTERNAL]
    send orders.journal [orders PRODUCER]
process orders.journal [inventory CONSUMER] ⇠ send orders.journal (other trace)
  queue orders.journal [inventory INTERNAL]
  send orders.journal [inventory PRODUCER]
  ack orders.journal [inventory CLIENT]
process orders.journal [ledger CONSUMER] ⇠ send orders.journal (other trace)
  queue orders.journal [ledger INTERNAL]
  ack orders.journal [ledger CLIENT]
process orders.journal [ledger CONSUMER] ⇠ send orders.journal (other trace)
  queue orders.journal [ledger INTERNAL]
  ack orders.journal [ledger CLIENT]
process orders.journal [ledger CONSUMER] ⇠ send orders.journal (other trace)
  queue orders.journal [ledger INTERNAL]
  ack orders.journal [ledger CLIENT]
process orders.journal [ledger CONSUMER] ⇠ send orders.journal (other trace)
  queue orders.journal [ledger INTERNAL]
  ack orders.journal [ledger CLIENT]
process orders.journal [ledger CONSUMER] ⇠ send orders.journal (other trace)
  queue orders.journal [ledger INTERNAL]
  ack orders.journal [ledger CLIENT]
process orders.journal [notifications CONSUMER] ⇠ send orders.journal (other trace)
  queue orders.journal [notifications INTERNAL]
  send orders.journal [notifications PRODUCER]
  ack orders.journal [notifications CLIENT]
process orders.journal [orders CONSUMER] = completed ⇠ send orders.journal (other trace)
  queue orders.journal [orders INTERNAL]
  ack orders.journal [orders CLIENT]
process orders.journal [orders CONSUMER] ⇠ send orders.journal (other trace)
  queue orders.journal [orders INTERNAL]
  ack orders.journal [orders CLIENT]
process orders.journal [orders CONSUMER] ⇠ send orders.journal (other trace)
  queue orders.journal [orders INTERNAL]
  ack orders.journal [orders CLIENT]
process orders.journal [orders CONSUMER] ⇠ send orders.journal (other trace)
  queue orders.journal [orders INTERNAL]
  ack orders.journal [orders CLIENT]
process orders.journal [payment CONSUMER] ⇠ send orders.journal (other trace)
  queue orders.journal [payment INTERNAL]
  send orders.journal [payment PRODUCER]
  ack orders.journal [payment CLIENT]
process orders.journal [shipping CONSUMER] ⇠ send orders.journal (other trace)
  queue orders.journal [shipping INTERNAL]
  send orders.journal [shipping PRODUCER]
  ack orders.journal [shipping CLIENT]\
""",
                "parent": """\
POST /orders [orders SERVER]
  outbox orders [orders INTERNAL]
    send orders.journal [orders PRODUCER]
      queue orders.journal [inventory INTERNAL]
      queue orders.journal [ledger INTERNAL]
      process orders.journal [inventory CONSUMER]
        send orders.journal [inventory PRODUCER]
          queue orders.journal [ledger INTERNAL]
          queue orders.journal [orders INTERNAL]
          queue orders.journal [payment INTERNAL]
          process orders.journal [ledger CONSUMER]
            ack orders.journal [ledger CLIENT]
          process orders.journal [orders CONSUMER]
            ack orders.journal [orders CLIENT]
          process orders.journal [payment CONSUMER]
            send orders.journal [payment PRODUCER]
              queue orders.journal [ledger INTERNAL]
              queue orders.journal [orders INTERNAL]
              queue orders.journal [shipping INTERNAL]
              process orders.journal [ledger CONSUMER]
                ack orders.journal [ledger CLIENT]
              process orders.journal [orders CONSUMER]
                ack orders.journal [orders CLIENT]
              process orders.journal [shipping CONSUMER]
                send orders.journal [shipping PRODUCER]
                  queue orders.journal [ledger INTERNAL]
                  queue orders.journal [notifications INTERNAL]
                  queue orders.journal [orders INTERNAL]
                  process orders.journal [ledger CONSUMER]
                    ack orders.journal [ledger CLIENT]
                  process orders.journal [notifications CONSUMER]
                    send orders.journal [notifications PRODUCER]
                      queue orders.journal [ledger INTERNAL]
                      queue orders.journal [orders INTERNAL]
                      process orders.journal [ledger CONSUMER]
                        ack orders.journal [ledger CLIENT]
                      process orders.journal [orders CONSUMER] = completed
                        ack orders.journal [orders CLIENT]
                    ack orders.journal [notifications CLIENT]
                  process orders.journal [orders CONSUMER]
                    ack orders.journal [orders CLIENT]
                ack orders.journal [shipping CLIENT]
            ack orders.journal [payment CLIENT]
        ack orders.journal [inventory CLIENT]
      process orders.journal [ledger CONSUMER]
        ack orders.journal [ledger CLIENT]\
""",
            }
        )[shape]
    )


@every_shape
async def test_hybrid(stage: Rig, shape: str) -> None:
    assert (
        await drawn(stage, "hybrid", shape)
        == snapshot(
            {
                "both": """\
POST /orders [orders SERVER]
  payment/charge.payment [orders CLIENT]
    payment/charge.payment [payment SERVER]
  outbox orders [orders INTERNAL]
    send fulfilment.journal [orders PRODUCER]
      queue fulfilment.journal [inventory INTERNAL]
      queue fulfilment.journal [ledger INTERNAL]
      process fulfilment.journal [inventory CONSUMER] ⇠ send fulfilment.journal
        send fulfilment.journal [inventory PRODUCER]
          queue fulfilment.journal [ledger INTERNAL]
          queue fulfilment.journal [orders INTERNAL]
          queue fulfilment.journal [shipping INTERNAL]
          process fulfilment.journal [ledger CONSUMER] ⇠ send fulfilment.journal
            ack fulfilment.journal [ledger CLIENT]
          process fulfilment.journal [orders CONSUMER] ⇠ send fulfilment.journal
            ack fulfilment.journal [orders CLIENT]
          process fulfilment.journal [shipping CONSUMER] ⇠ send fulfilment.journal
            send fulfilment.journal [shipping PRODUCER]
              queue fulfilment.journal [ledger INTERNAL]
              queue fulfilment.journal [orders INTERNAL]
              process fulfilment.journal [ledger CONSUMER] ⇠ send fulfilment.journal
                ack fulfilment.journal [ledger CLIENT]
              process fulfilment.journal [orders CONSUMER] ⇠ send fulfilment.journal
                outbox orders [orders INTERNAL]
                  send notifications.commands [orders PRODUCER]
                    queue notifications.commands [notifications INTERNAL]
                    process notifications.commands [notifications CONSUMER] ⇠ send notifications.commands
                      send orders.replies [notifications PRODUCER]
                        queue orders.replies [orders INTERNAL]
                        process orders.replies [orders CONSUMER] = completed ⇠ send orders.replies
                          outbox orders [orders INTERNAL]
                            send fulfilment.journal [orders PRODUCER]
                              queue fulfilment.journal [ledger INTERNAL]
                              process fulfilment.journal [ledger CONSUMER] ⇠ send fulfilment.journal
                                ack fulfilment.journal [ledger CLIENT]
                          ack orders.replies [orders CLIENT]
                      ack notifications.commands [notifications CLIENT]
                ack fulfilment.journal [orders CLIENT]
            ack fulfilment.journal [shipping CLIENT]
        ack fulfilment.journal [inventory CLIENT]
      process fulfilment.journal [ledger CONSUMER] ⇠ send fulfilment.journal
        ack fulfilment.journal [ledger CLIENT]\
""",
                "link": """\
POST /orders [orders SERVER]
  payment/charge.payment [orders CLIENT]
    payment/charge.payment [payment SERVER]
  outbox orders [orders INTERNAL]
    send fulfilment.journal [orders PRODUCER]
process fulfilment.journal [inventory CONSUMER] ⇠ send fulfilment.journal (other trace)
  queue fulfilment.journal [inventory INTERNAL]
  send fulfilment.journal [inventory PRODUCER]
  ack fulfilment.journal [inventory CLIENT]
process fulfilment.journal [ledger CONSUMER] ⇠ send fulfilment.journal (other trace)
  queue fulfilment.journal [ledger INTERNAL]
  ack fulfilment.journal [ledger CLIENT]
process fulfilment.journal [ledger CONSUMER] ⇠ send fulfilment.journal (other trace)
  queue fulfilment.journal [ledger INTERNAL]
  ack fulfilment.journal [ledger CLIENT]
process fulfilment.journal [ledger CONSUMER] ⇠ send fulfilment.journal (other trace)
  queue fulfilment.journal [ledger INTERNAL]
  ack fulfilment.journal [ledger CLIENT]
process fulfilment.journal [ledger CONSUMER] ⇠ send fulfilment.journal (other trace)
  queue fulfilment.journal [ledger INTERNAL]
  ack fulfilment.journal [ledger CLIENT]
process fulfilment.journal [orders CONSUMER] ⇠ send fulfilment.journal (other trace)
  queue fulfilment.journal [orders INTERNAL]
  ack fulfilment.journal [orders CLIENT]
process fulfilment.journal [orders CONSUMER] ⇠ send fulfilment.journal (other trace)
  queue fulfilment.journal [orders INTERNAL]
  outbox orders [orders INTERNAL]
    send notifications.commands [orders PRODUCER]
  ack fulfilment.journal [orders CLIENT]
process fulfilment.journal [shipping CONSUMER] ⇠ send fulfilment.journal (other trace)
  queue fulfilment.journal [shipping INTERNAL]
  send fulfilment.journal [shipping PRODUCER]
  ack fulfilment.journal [shipping CLIENT]
process notifications.commands [notifications CONSUMER] ⇠ send notifications.commands (other trace)
  queue notifications.commands [notifications INTERNAL]
  send orders.replies [notifications PRODUCER]
  ack notifications.commands [notifications CLIENT]
process orders.replies [orders CONSUMER] = completed ⇠ send orders.replies (other trace)
  queue orders.replies [orders INTERNAL]
  outbox orders [orders INTERNAL]
    send fulfilment.journal [orders PRODUCER]
  ack orders.replies [orders CLIENT]\
""",
                "parent": """\
POST /orders [orders SERVER]
  payment/charge.payment [orders CLIENT]
    payment/charge.payment [payment SERVER]
  outbox orders [orders INTERNAL]
    send fulfilment.journal [orders PRODUCER]
      queue fulfilment.journal [inventory INTERNAL]
      queue fulfilment.journal [ledger INTERNAL]
      process fulfilment.journal [inventory CONSUMER]
        send fulfilment.journal [inventory PRODUCER]
          queue fulfilment.journal [ledger INTERNAL]
          queue fulfilment.journal [orders INTERNAL]
          queue fulfilment.journal [shipping INTERNAL]
          process fulfilment.journal [ledger CONSUMER]
            ack fulfilment.journal [ledger CLIENT]
          process fulfilment.journal [orders CONSUMER]
            ack fulfilment.journal [orders CLIENT]
          process fulfilment.journal [shipping CONSUMER]
            send fulfilment.journal [shipping PRODUCER]
              queue fulfilment.journal [ledger INTERNAL]
              queue fulfilment.journal [orders INTERNAL]
              process fulfilment.journal [ledger CONSUMER]
                ack fulfilment.journal [ledger CLIENT]
              process fulfilment.journal [orders CONSUMER]
                outbox orders [orders INTERNAL]
                  send notifications.commands [orders PRODUCER]
                    queue notifications.commands [notifications INTERNAL]
                    process notifications.commands [notifications CONSUMER]
                      send orders.replies [notifications PRODUCER]
                        queue orders.replies [orders INTERNAL]
                        process orders.replies [orders CONSUMER] = completed
                          outbox orders [orders INTERNAL]
                            send fulfilment.journal [orders PRODUCER]
                              queue fulfilment.journal [ledger INTERNAL]
                              process fulfilment.journal [ledger CONSUMER]
                                ack fulfilment.journal [ledger CLIENT]
                          ack orders.replies [orders CLIENT]
                      ack notifications.commands [notifications CLIENT]
                ack fulfilment.journal [orders CLIENT]
            ack fulfilment.journal [shipping CLIENT]
        ack fulfilment.journal [inventory CLIENT]
      process fulfilment.journal [ledger CONSUMER]
        ack fulfilment.journal [ledger CLIENT]\
""",
            }
        )[shape]
    )
