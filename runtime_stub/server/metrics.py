"""The tally in Prometheus' words. Its library takes a while to import: only do so when asked."""

from __future__ import annotations

from collections.abc import Iterator

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)
from prometheus_client.registry import Collector

from runtime_stub.server.tally import Histogram, Tally

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"


def exposition(tally: Tally, *, ready: bool, context: int) -> bytes:
    """All metrics as text. `context` is the model's, in tokens."""
    registry = CollectorRegistry()
    registry.register(_Metrics(tally, ready=ready, context=context))
    return generate_latest(registry)


class _Metrics(Collector):
    def __init__(self, tally: Tally, *, ready: bool, context: int) -> None:
        self._tally = tally
        self._ready = ready
        self._context = context

    def collect(self) -> Iterator[Metric]:
        tally = self._tally
        with tally.lock:
            metrics = [*self._of_http(), *self._of_engine()]
        yield from metrics

    def _of_http(self) -> Iterator[Metric]:
        tally = self._tally
        requests = CounterMetricFamily(
            "satchel_http_requests", "HTTP requests.", labels=["method", "route", "status"]
        )
        for (method, route, status), count in sorted(tally.requests.items()):
            requests.add_metric([method, route, str(status)], count)
        yield requests
        yield _histogram(
            "satchel_http_request_seconds",
            "Time from an HTTP request to the end of its reply.",
            tally.request_seconds,
        )

    def _of_engine(self) -> Iterator[Metric]:
        tally = self._tally
        gauges = {
            "satchel_ready": ("Whether the model is loaded.", int(self._ready)),
            "satchel_context_tokens": ("Tokens of context, for all requests.", self._context),
            "satchel_requests_waiting": (
                "Requests whose prompt is not read yet.",
                tally.waiting,
            ),
            "satchel_requests_running": ("Requests that are being answered.", tally.running),
        }
        for name, (text, value) in gauges.items():
            yield GaugeMetricFamily(name, text, value)
        counters = {
            "satchel_prompt_tokens": ("Tokens of prompts.", tally.prompt_tokens),
            "satchel_cached_prompt_tokens": (
                "Those of them that did not have to be read again.",
                tally.cached_tokens,
            ),
            "satchel_completion_tokens": ("Tokens of answers.", tally.completion_tokens),
            "satchel_prompt_seconds": ("Time spent reading prompts.", tally.prompt_seconds),
            "satchel_completion_seconds": ("Time spent answering.", tally.completion_seconds),
        }
        for name, (text, count) in counters.items():
            yield CounterMetricFamily(name, text, count)
        answers = CounterMetricFamily(
            "satchel_answers", "Answers by why they ended.", labels=["reason"]
        )
        for reason, count in sorted(tally.reasons.items()):
            answers.add_metric([reason], count)
        yield answers
        failures = CounterMetricFamily(
            "satchel_failures", "Requests the engine could not answer.", labels=["kind"]
        )
        for kind, count in sorted(tally.failures.items()):
            failures.add_metric([kind], count)
        yield failures
        yield _histogram(
            "satchel_first_token_seconds",
            "Time from a request to the first piece of its answer.",
            tally.first_token,
        )
        yield _histogram(
            "satchel_tokens_per_second", "Speed of each answer, without its prompt.", tally.speed
        )


def _histogram(name: str, text: str, histogram: Histogram) -> Metric:
    bounds = [*(str(bound) for bound in histogram.bounds), "+Inf"]
    buckets = list(zip(bounds, histogram.cumulative(), strict=True))
    return HistogramMetricFamily(name, text, buckets=buckets, sum_value=histogram.total)
