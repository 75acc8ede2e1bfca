"""The trace of an order, whole: every span, parent and link of each style, in each shape."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from inline_snapshot import snapshot

from tests.services.lab import DECLINED, NOT_SERVED, ORDER, OUT_OF_STOCK, UNREACHABLE, MemoryLab, memory_lab, tree


@pytest.fixture
async def lab(tmp_path: Path, request: pytest.FixtureRequest) -> AsyncIterator[MemoryLab]:
    async with memory_lab(tmp_path, getattr(request, "param", {})) as running:
        yield running


def shape(name: str) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("lab", [{"trace.shape": name}], indirect=True, ids=[name])


async def test_request_response_is_one_trace_of_nested_calls(lab: MemoryLab) -> None:
    order = await lab.finished(ORDER, "request_response")
    assert order["state"] == "completed"
    assert tree(await lab.spans()) == snapshot("""\
POST /orders [orders SERVER] = completed
  inventory/reserve.stock [orders CLIENT]
    inventory/reserve.stock [inventory SERVER]
  payment/charge.payment [orders CLIENT]
    payment/charge.payment [payment SERVER]
  shipping/book.shipment [orders CLIENT]
    shipping/book.shipment [shipping SERVER]
  notifications/notify.customer [orders CLIENT]
    notifications/notify.customer [notifications SERVER]\
""")


async def test_request_response_takes_back_what_was_done_before_a_refusal(lab: MemoryLab) -> None:
    order = await lab.finished(UNREACHABLE, "request_response")
    assert order["state"] == "rejected"
    assert tree(await lab.spans()) == snapshot("""\
POST /orders [orders SERVER] = rejected
  inventory/reserve.stock [orders CLIENT]
    inventory/reserve.stock [inventory SERVER]
  payment/charge.payment [orders CLIENT]
    payment/charge.payment [payment SERVER]
  shipping/book.shipment [orders CLIENT]
    shipping/book.shipment [shipping SERVER]
  notifications/notify.customer [orders CLIENT]
    notifications/notify.customer [notifications SERVER]
  shipping/cancel.shipment [orders CLIENT]
    shipping/cancel.shipment [shipping SERVER]
  payment/refund.payment [orders CLIENT]
    payment/refund.payment [payment SERVER]
  inventory/release.stock [orders CLIENT]
    inventory/release.stock [inventory SERVER]\
""")


@shape("both")
async def test_choreography_in_shape_both_is_one_trace_with_a_link_on_each_process_span(lab: MemoryLab) -> None:
    order = await lab.finished(ORDER, "choreography")
    assert order["state"] == "completed"
    assert tree(await lab.spans()) == snapshot("""\
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
""")


@shape("link")
async def test_choreography_in_shape_link_is_one_trace_per_hop_linked_to_the_one_before(lab: MemoryLab) -> None:
    await lab.finished(ORDER, "choreography")
    assert tree(await lab.spans()) == snapshot("""\
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
""")


@shape("parent")
async def test_choreography_in_shape_parent_has_no_links(lab: MemoryLab) -> None:
    await lab.finished(OUT_OF_STOCK, "choreography")
    assert tree(await lab.spans()) == snapshot("""\
POST /orders [orders SERVER]
  outbox orders [orders INTERNAL]
    send orders.events [orders PRODUCER]
      queue orders.events [inventory INTERNAL]
      process orders.events [inventory CONSUMER]
        send inventory.events [inventory PRODUCER]
          queue inventory.events [orders INTERNAL]
          queue inventory.events [payment INTERNAL]
          process inventory.events [orders CONSUMER] = rejected
            ack inventory.events [orders CLIENT]
          process inventory.events [payment CONSUMER]
            ack inventory.events [payment CLIENT]
        ack orders.events [inventory CLIENT]\
""")


@shape("link")
async def test_choreography_takes_back_what_was_done_before_a_refusal(lab: MemoryLab) -> None:
    order = await lab.finished(NOT_SERVED, "choreography")
    assert (order["state"], order["reason"]) == ("rejected", "no carrier goes to Atlantis")
    assert tree(await lab.spans()) == snapshot("""\
POST /orders [orders SERVER]
  outbox orders [orders INTERNAL]
    send orders.events [orders PRODUCER]
process inventory.events [orders CONSUMER] = rejected ⇠ send inventory.events (other trace)
  queue inventory.events [orders INTERNAL]
  ack inventory.events [orders CLIENT]
process inventory.events [orders CONSUMER] ⇠ send inventory.events (other trace)
  queue inventory.events [orders INTERNAL]
  ack inventory.events [orders CLIENT]
process inventory.events [payment CONSUMER] ⇠ send inventory.events (other trace)
  queue inventory.events [payment INTERNAL]
  ack inventory.events [payment CLIENT]
process inventory.events [payment CONSUMER] ⇠ send inventory.events (other trace)
  queue inventory.events [payment INTERNAL]
  send payment.events [payment PRODUCER]
  ack inventory.events [payment CLIENT]
process orders.events [inventory CONSUMER] ⇠ send orders.events (other trace)
  queue orders.events [inventory INTERNAL]
  send inventory.events [inventory PRODUCER]
  ack orders.events [inventory CLIENT]
process payment.events [inventory CONSUMER] ⇠ send payment.events (other trace)
  queue payment.events [inventory INTERNAL]
  ack payment.events [inventory CLIENT]
process payment.events [inventory CONSUMER] ⇠ send payment.events (other trace)
  queue payment.events [inventory INTERNAL]
  send inventory.events [inventory PRODUCER]
  ack payment.events [inventory CLIENT]
process payment.events [orders CONSUMER] ⇠ send payment.events (other trace)
  queue payment.events [orders INTERNAL]
  ack payment.events [orders CLIENT]
process payment.events [orders CONSUMER] ⇠ send payment.events (other trace)
  queue payment.events [orders INTERNAL]
  ack payment.events [orders CLIENT]
process payment.events [shipping CONSUMER] ⇠ send payment.events (other trace)
  queue payment.events [shipping INTERNAL]
  ack payment.events [shipping CLIENT]
process payment.events [shipping CONSUMER] ⇠ send payment.events (other trace)
  queue payment.events [shipping INTERNAL]
  send shipping.events [shipping PRODUCER]
  ack payment.events [shipping CLIENT]
process shipping.events [notifications CONSUMER] ⇠ send shipping.events (other trace)
  queue shipping.events [notifications INTERNAL]
  ack shipping.events [notifications CLIENT]
process shipping.events [orders CONSUMER] ⇠ send shipping.events (other trace)
  queue shipping.events [orders INTERNAL]
  ack shipping.events [orders CLIENT]
process shipping.events [payment CONSUMER] ⇠ send shipping.events (other trace)
  queue shipping.events [payment INTERNAL]
  send payment.events [payment PRODUCER]
  ack shipping.events [payment CLIENT]\
""")


@shape("both")
async def test_a_message_queue_hands_the_order_from_worker_to_worker_and_each_reports(lab: MemoryLab) -> None:
    order = await lab.finished(ORDER, "message_queue")
    assert order["state"] == "completed"
    assert tree(await lab.spans()) == snapshot("""\
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
""")


@shape("link")
async def test_a_message_queue_takes_back_what_was_done_before_a_refusal(lab: MemoryLab) -> None:
    order = await lab.finished(NOT_SERVED, "message_queue")
    assert (order["state"], order["reason"]) == ("rejected", "no carrier goes to Atlantis")
    assert tree(await lab.spans()) == snapshot("""\
POST /orders [orders SERVER]
  outbox orders [orders INTERNAL]
    send inventory.commands [orders PRODUCER]
process inventory.commands [inventory CONSUMER] ⇠ send inventory.commands (other trace)
  queue inventory.commands [inventory INTERNAL]
  send orders.replies [inventory PRODUCER]
  ack inventory.commands [inventory CLIENT]
process inventory.commands [inventory CONSUMER] ⇠ send inventory.commands (other trace)
  queue inventory.commands [inventory INTERNAL]
  send orders.replies [inventory PRODUCER]
  send payment.commands [inventory PRODUCER]
  ack inventory.commands [inventory CLIENT]
process orders.replies [orders CONSUMER] = rejected ⇠ send orders.replies (other trace)
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
process orders.replies [orders CONSUMER] ⇠ send orders.replies (other trace)
  queue orders.replies [orders INTERNAL]
  ack orders.replies [orders CLIENT]
process payment.commands [payment CONSUMER] ⇠ send payment.commands (other trace)
  queue payment.commands [payment INTERNAL]
  send orders.replies [payment PRODUCER]
  send inventory.commands [payment PRODUCER]
  ack payment.commands [payment CLIENT]
process payment.commands [payment CONSUMER] ⇠ send payment.commands (other trace)
  queue payment.commands [payment INTERNAL]
  send orders.replies [payment PRODUCER]
  send shipping.commands [payment PRODUCER]
  ack payment.commands [payment CLIENT]
process shipping.commands [shipping CONSUMER] ⇠ send shipping.commands (other trace)
  queue shipping.commands [shipping INTERNAL]
  send orders.replies [shipping PRODUCER]
  send payment.commands [shipping PRODUCER]
  ack shipping.commands [shipping CLIENT]\
""")


async def test_the_shape_can_be_changed_while_the_lab_runs(lab: MemoryLab) -> None:
    await lab.finished(DECLINED, "choreography")
    traces = {span.context.trace_id for span in await lab.spans() if span.name.startswith("process")}
    assert len(traces) == 1
    lab.exporter.clear()
    await lab.orders.store.put_settings({"trace.shape": "link"})
    lab.orders.process.live.update(await lab.orders.store.settings())
    await lab.finished(DECLINED, "choreography")
    traces = {span.context.trace_id for span in await lab.spans() if span.name.startswith("process")}
    assert len(traces) > 1
