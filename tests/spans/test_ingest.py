"""Rows to disk: each span once, bad exports alone, totals that add up."""

import sqlite3

import pytest

from lab.spans import otlp, schema
from lab.spans.ingest import Export, Outcome, SpanWriter
from lab.spans.queries import Questions
from tests.spans.stories import Story, choreography, request_response


def export(body: bytes) -> Export:
    return Export(body, body, "")


@pytest.fixture
def writer(tmp_path):
    writer = SpanWriter(tmp_path / "spans.db", forwarded=True)
    yield writer
    writer.close()


def test_a_retried_export_is_stored_once(tmp_path, writer):
    """The same payload again: nothing stored twice, nothing queued for forwarding twice."""
    body = choreography("both").payload()
    first, second = writer.store([export(body)])[0], writer.store([export(body)])[0]
    assert first == Outcome(11, 11, 0, 0, "")
    assert second == Outcome(11, 0, 11, 0, "")
    questions = Questions(tmp_path / "spans.db")
    stats = questions.stats()
    assert (stats.received, stats.stored, stats.duplicates, stats.payloads) == (22, 11, 11, 2)
    assert stats.by_service == {"inventory": 3, "orders": 5, "payment": 3}
    with questions.view() as view:
        assert view.one("SELECT count(*) FROM payloads") == 1
        assert view.one("SELECT spans FROM flows") == 11


def test_a_retry_in_the_same_group_is_stored_once(writer):
    body = choreography("both").payload()
    assert [outcome.stored for outcome in writer.store([export(body), export(body)])] == [11, 0]


def test_a_payload_that_is_half_known_adds_the_other_half(tmp_path, writer):
    """Totals by service count what is new, not what was sent."""
    story = choreography("both")
    writer.store([export(story.payload())])
    story.front_door(200, 210, order_id="o-2")
    (outcome,) = writer.store([export(story.payload())])
    assert (outcome.stored, outcome.duplicates) == (1, 11)
    assert Questions(tmp_path / "spans.db").stats().by_service == {"inventory": 3, "orders": 6, "payment": 3}


def test_a_bad_export_harms_no_other_of_its_group(writer):
    good = choreography("both").payload()
    bad, outcome = writer.store([export(b"not protobuf"), export(good)])
    assert isinstance(bad, otlp.BadPayloadError)
    assert outcome.stored == 11


def test_nothing_is_half_stored_when_the_file_refuses(tmp_path, writer):
    """A failed transaction leaves no row and no remembered number behind; the retry is complete."""
    body = choreography("both").payload()
    writer._connection.execute("CREATE TEMP TRIGGER full BEFORE INSERT ON links BEGIN SELECT raise(FAIL, 'full'); END")
    with pytest.raises(sqlite3.Error):
        writer.store([export(body)])
    questions = Questions(tmp_path / "spans.db")
    assert questions.stats().stored == 0
    with questions.view() as view:
        assert view.one("SELECT count(*) FROM traces") == 0
    writer._connection.execute("DROP TRIGGER full")
    assert writer.store([export(body)])[0].stored == 11
    assert len(questions.order("o-1").spans) == 11


def test_numbers_go_on_after_a_restart(tmp_path):
    for seed, order in (("a", "o-a"), ("b", "o-b"), ("a", "o-a")):
        writer = SpanWriter(tmp_path / "spans.db", forwarded=False)
        writer.store([export(choreography("link", seed=seed, order_id=order).payload())])
        writer.close()
    questions = Questions(tmp_path / "spans.db")
    assert questions.stats().stored == 22
    assert len(questions.order("o-a").spans) == len(questions.order("o-b").spans) == 11


def test_more_names_than_the_memory_keeps(tmp_path, monkeypatch):
    """Caches are bounded; what was forgotten is read again, not numbered anew."""
    monkeypatch.setattr("lab.spans.ingest._CACHE_ENTRIES", 3)
    writer = SpanWriter(tmp_path / "spans.db", forwarded=False)
    for _ in range(2):
        for seed in "abcdefgh":
            body = request_response(seed=seed, order_id=seed, run_id=f"run-{seed}").payload()
            writer.store([export(body)])
    writer.close()
    questions = Questions(tmp_path / "spans.db")
    assert questions.stats().stored == 8 * 5
    assert all(len(questions.order(seed).spans) == 5 for seed in "abcdefgh")


def test_a_payload_of_many_spans_is_stored_whole(tmp_path, writer):
    """More rows than one statement takes, and a rest that is no multiple of it."""
    story = Story()
    door = story.front_door(0, 1)
    for number in range(299):
        story.span("orders", "step", "internal", number, number + 1, parent=door, links=[door])
    assert writer.store([export(story.payload())])[0].stored == 300
    assert len(Questions(tmp_path / "spans.db").order("o-1").spans) == 300


def test_two_stores_do_not_share_a_file(tmp_path, writer):
    with pytest.raises(schema.StoreError, match="in use"):
        SpanWriter(tmp_path / "spans.db", forwarded=False)


@pytest.mark.parametrize("content", [b"this is no database at all, but long enough to look at" * 20, None])
def test_a_file_that_is_no_span_store_is_left_alone(tmp_path, content):
    path = tmp_path / "other.db"
    if content is None:
        other = sqlite3.connect(path)
        other.execute("CREATE TABLE something (x)")
        other.close()
    else:
        path.write_bytes(content)
    before = path.read_bytes()
    with pytest.raises(schema.StoreError, match=r"other\.db"):
        SpanWriter(path, forwarded=False)
    assert path.read_bytes() == before
    with pytest.raises(
        schema.StoreError, match=r"other\.db"
    ):  # and its lock is free again: the same fault, not "in use"
        SpanWriter(path, forwarded=False)


def test_addresses_keep_their_cursors_and_forgotten_ones_their_silence(tmp_path, writer):
    writer.set_addresses(["http://a", "http://b"])
    for seed in "xyz":
        writer.store([export(request_response(seed=seed).payload())])
    writer.store([], {"http://a": 3, "http://b": 1})
    view = Questions(tmp_path / "spans.db").view
    with view() as now:
        assert now.connection.execute("SELECT seq FROM payloads").fetchall() == [(2,), (3,)]
    writer.set_addresses(["http://a"])
    with view() as now:
        assert now.connection.execute("SELECT seq FROM payloads").fetchall() == []
