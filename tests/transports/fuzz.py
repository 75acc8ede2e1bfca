"""Malformed bytes, as many as it takes: what every decoder and every port must survive (design 10).

``bytes_like`` makes inputs that are near enough to a good one to get past the first check; ``hammer`` feeds a decoder
in this process. Against a running server the adapters' tests draw ``ON_THE_WIRE`` from the same strategy.
"""

import random
from collections.abc import Callable, Iterator
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

IN_PROCESS = 10_000
ON_THE_WIRE = 200
_SETTINGS = settings(
    deadline=None, database=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large]
)


def bytes_like(good: bytes) -> st.SearchStrategy[bytes]:
    """Noise; and ``good`` cut short, with bytes changed, taken out, doubled, or something added."""
    places = st.integers(0, max(len(good) - 1, 0))

    def spliced(edits: list[tuple[int, int, bytes]]) -> bytes:
        result = good
        for start, length, inserted in edits:
            result = result[:start] + inserted + result[start + length :]
        return result

    edit = st.tuples(places, st.integers(0, 8), st.binary(max_size=8))
    return st.one_of(
        st.binary(max_size=512),
        places.map(lambda end: good[:end]),
        st.binary(min_size=1, max_size=64).map(lambda tail: good + tail),
        st.lists(edit, min_size=1, max_size=4).map(spliced),
    )


def mutated(good: bytes, seed: int, count: int) -> Iterator[bytes]:
    """``count`` inputs like those of ``bytes_like``, quickly: Hypothesis chooses the seed, the rest is chance."""
    chance = random.Random(seed)
    for _ in range(count):
        data = bytearray(good)
        for _ in range(chance.randint(1, 4)):
            start = chance.randrange(len(data) + 1)
            data[start : start + chance.randint(0, 8)] = chance.randbytes(chance.randint(0, 8))
        yield bytes(data[: chance.choice([len(data), chance.randrange(len(data) + 1)])])


def hammer(decode: Callable[[bytes], Any], refuses: type[Exception] | tuple[type[Exception], ...], good: bytes) -> None:
    """``decode`` takes each of ``IN_PROCESS`` inputs or raises one of ``refuses``, and nothing else, ever."""
    decode(good)

    def feed(data: bytes) -> None:
        try:
            decode(data)
        except refuses:
            pass
        except Exception as error:
            error.add_note(f"the input was {data!r}")
            raise

    @settings(_SETTINGS, max_examples=IN_PROCESS // 10)
    @given(bytes_like(good))
    def one(data: bytes) -> None:
        feed(data)

    @settings(_SETTINGS, max_examples=90)
    @given(st.integers(0, 2**64))
    def many(seed: int) -> None:
        for data in mutated(good, seed, IN_PROCESS // 100):
            feed(data)

    one()
    many()
