"""What a topic of dead letters says, whatever of it compaction has left."""

from aiokafka import ConsumerRecord
from hypothesis import given
from hypothesis import strategies as st

from services.transports.messaging.kafka_letters import Headers, noted, unsettled
from services.transports.messaging.kafka_wire import to_wire
from tests.transports.messaging.suite import event


def record(offset: int, key: bytes | None, headers: Headers, value: bytes | None, partition: int = 0) -> ConsumerRecord:
    return ConsumerRecord("t", partition, offset, 1_700_000_000_000 + offset, 0, key, value, None, -1, -1, headers)


EVENTS = [event(number) for number in range(5)]


def message(number: int) -> ConsumerRecord:
    """The ``number``-th record of the channel; every other has no key."""
    headers, body = EVENTS[number]
    return record(number, b"o-1" if number % 2 else None, to_wire(headers), body, partition=number % 3)


def compacted(topic: list[ConsumerRecord], upto: int) -> list[ConsumerRecord]:
    """Of the first ``upto`` records only each key's last one is left."""
    last = {each.key: each.offset for each in topic[:upto]}
    return [each for each in topic[:upto] if last[each.key] == each.offset] + topic[upto:]


@given(st.lists(st.tuples(st.integers(0, 4), st.booleans()), max_size=40), st.data())
def test_compaction_changes_nothing(history: list[tuple[int, bool]], data: st.DataObject) -> None:
    """Messages die (some twice, since nobody heard of it the first time) and are settled: what is unsettled is the
    same before and after any part of the topic was compacted."""
    topic: list[ConsumerRecord] = []
    dead: list[int] = []
    for number, dies in history:
        key, headers = noted(message(number), "why not", 2)
        if dies:
            topic.append(record(len(topic), key, headers, message(number).value))
            dead = [*(each for each in dead if each != number), number]
        elif number in dead:
            [letter] = [each for each in unsettled(topic) if each.mark == key]
            topic.append(record(len(topic), letter.mark, [], None))
            dead.remove(number)
    left = compacted(topic, data.draw(st.integers(0, len(topic))))
    for found in (unsettled(topic), unsettled(left)):
        letters = [letter.told("orders.events", "payment") for letter in found]
        assert [letter.id for letter in letters] == [EVENTS[number][0]["ce-id"] for number in dead]
        for number, letter, told in zip(dead, found, letters, strict=True):
            assert (letter.key, told.headers, told.body) == (message(number).key, *EVENTS[number])
            assert (told.reason, told.attempts) == ("why not", 2)


def test_notes_of_a_stranger_are_his_own() -> None:
    """A message that looks as if it had died before keeps its headers; so does a record that is no dead letter."""
    claims: Headers = [("lab-dead-letter-reason", b"mine"), ("lab-dead-letter-attempts", b"many"), ("x", None)]
    key, headers = noted(record(7, None, claims, b"?"), "ours", 3)
    [letter] = unsettled([record(0, key, headers, b"?")])
    assert letter.headers == claims
    assert (letter.told("c", "g").reason, letter.told("c", "g").attempts) == ("ours", 3)
    [foreign] = unsettled([record(0, b"k", claims, b"?")])
    assert (foreign.headers, foreign.key, foreign.told("c", "g").reason) == (claims, b"k", "")
