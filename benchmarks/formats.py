"""What a message's payload costs in each format: ``python -m benchmarks.formats``.

The same event in JSON, Protobuf and Avro, by the codecs that the services use: from the domain's object to bytes and
back to a checked object. A small order (two lines) and a long one (50). CPU time, rounds interleaved, medians. The time
says as much of the libraries as of the formats: JSON is pydantic's, in Rust, which makes the objects itself; Protobuf
(upb, in C) and Avro (fastavro, Cython) fill records, and Python copies them field by field.
"""

import gc
import statistics
import time
from collections.abc import Callable

from services.domain.messages import Line, Order, OrderPlaced, type_name
from services.transports.formats import FORMATS

ROUNDS = 15
REPEAT_S = 0.05
ORDERS = {
    "2 lines": (Line("tea", 2), Line("cup", 1)),
    "50 lines": tuple(Line(f"article-{number}", number + 1) for number in range(50)),
}
ID = "5f0c1f4e-7f0b-4a53-9d55-2f1f6c1c9f0a"


def placed(lines: tuple[Line, ...]) -> OrderPlaced:
    return OrderPlaced(Order(ID, "c-1", "4242424242424242", "Lisbon", lines, 420_000))


def cpu_us(work: Callable[[], object], count: int) -> float:
    started = time.process_time()
    for _ in range(count):
        work()
    return (time.process_time() - started) / count * 1e6


def main(_: list[str]) -> None:
    name = type_name(OrderPlaced)
    print(f"{name}, CPU time, medians of {ROUNDS} rounds")
    print(f"{'order':10}{'format':10}{'bytes':>8}{'encode µs':>12}{'decode µs':>12}")
    for title, lines in ORDERS.items():
        event = placed(lines)
        bodies = {each: FORMATS[each].dumps(event) for each in FORMATS}
        work: dict[tuple[str, str], Callable[[], object]] = {}
        for each, body in bodies.items():
            work[each, "encode"] = lambda codec=FORMATS[each], event=event: codec.dumps(event)
            work[each, "decode"] = lambda codec=FORMATS[each], body=body: codec.loads(name, body)
        counts = {key: max(1, int(REPEAT_S * 1e6 / cpu_us(do, 200))) for key, do in work.items()}
        figures: dict[tuple[str, str], list[float]] = {key: [] for key in work}
        gc.collect()
        for _round in range(ROUNDS):
            for key, do in work.items():
                figures[key].append(cpu_us(do, counts[key]))
        for each, body in bodies.items():
            encode, decode = (statistics.median(figures[each, way]) for way in ("encode", "decode"))
            print(f"{title:10}{each:10}{len(body):8}{encode:12.1f}{decode:12.1f}")


if __name__ == "__main__":
    main([])
