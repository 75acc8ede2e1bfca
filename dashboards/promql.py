"""PromQL that is written often, with Grafana's variables in it."""

from dashboards.panels import Query
from services.telemetry import conventions as c

RATE = "$__rate_interval"
"""At least four scrapes, so that a rate is never empty, and as long as a pixel needs."""
FLOW = f'{c.LABEL_STYLE}=~"$style",{c.LABEL_TRANSPORT}=~"$transport"'
BY_FLOW = f"{c.LABEL_STYLE}, {c.LABEL_TRANSPORT}"
FLOW_LEGEND = f"{{{{{c.LABEL_STYLE}}}}} / {{{{{c.LABEL_TRANSPORT}}}}}"
BY_READER = f"{c.LABEL_SYSTEM}, {c.LABEL_SERVICE}, {c.LABEL_DESTINATION}"
READER_LEGEND = f"{{{{{c.LABEL_SYSTEM}}}}}: {{{{{c.LABEL_SERVICE}}}}} reads {{{{{c.LABEL_DESTINATION}}}}}"


def total(metric: str, where: str = "", by: str = "", window: str = RATE) -> str:
    """The rate of a counter per second, summed up."""
    return f"sum{_by(by)}(rate({metric}_total{_where(where)}[{window}]))"


def count(histogram: str, where: str = "", by: str = "", window: str = RATE) -> str:
    """How many observations per second a histogram got."""
    return f"sum{_by(by)}(rate({histogram}_count{_where(where)}[{window}]))"


def missed(histogram: str, seconds: float, good: str = "", where: str = "", by: str = "", window: str = RATE) -> str:
    """Which part of the observations was not ``good`` or took longer than ``seconds``, which must be one of the
    buckets; NaN where there was none."""
    assert seconds in c.DURATION_BUCKETS_S, seconds
    within = ",".join(each for each in (f'le="{float(seconds)}"', good or where) if each)
    everything = count(histogram, where, by, window)
    return f"1 - (sum{_by(by)}(rate({histogram}_bucket{_where(within)}[{window}])) or {everything} * 0) / {everything}"


def quantile(q: float, histogram: str, where: str = "", by: str = "") -> str:
    """An estimate from the buckets, in seconds."""
    labels = ", ".join(each for each in ("le", by) if each)
    return f"histogram_quantile({q}, sum{_by(labels)}(rate({histogram}_bucket{_where(where)}[{RATE}])))"


def quantiles(histogram: str, legend: str, where: str = "", by: str = "") -> tuple[Query, ...]:
    """p50 and p95, with exemplars."""
    return tuple(
        Query(quantile(q, histogram, where, by), f"p{q * 100:.0f} {legend}".strip(), exemplars=True)
        for q in (0.5, 0.95)
    )


def age(timestamp: str, where: str = "", by: str = "", reduce: str = "max") -> str:
    """Seconds since ``timestamp``; 0 where that is 0, which says that nothing waits."""
    gauge = f"{timestamp}{_where(where)}"
    return f"{reduce}{_by(by)}((time() - {gauge}) * ({gauge} > bool 0))"


def _where(matchers: str) -> str:
    return f"{{{matchers}}}" if matchers else ""


def _by(labels: str) -> str:
    return f" by ({labels}) " if labels else ""
