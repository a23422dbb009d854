"""Each epoch as a trace for OpenTelemetry, if TRS_TRACES says where to; nothing is imported otherwise."""

from collections.abc import Callable
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

from processors.activity import EpochTrace
from processors.errors import SettingsError

if TYPE_CHECKING:
    from opentelemetry.trace import TracerProvider

Listener = Callable[[EpochTrace], None]


def otlp_listener(endpoint: str) -> tuple[Listener, Callable[[], None]]:
    """What notes epochs, and what flushes at the end. Raises SettingsError where the extra is not installed."""
    try:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
    except ImportError:
        raise SettingsError(
            "TRS_TRACES needs OpenTelemetry", hint="pip install 'trs-stream[traces]', or unset TRS_TRACES"
        ) from None
    provider = TracerProvider(resource=Resource.create({"service.name": "trs-worker"}))
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter(endpoint=endpoint, timeout=5)))
    return spans_of(provider), provider.shutdown


def spans_of(provider: "TracerProvider") -> Listener:
    """Notes each epoch that had something to do as a span with its steps below it, at the times that they had."""
    from opentelemetry.trace import Status, StatusCode, set_span_in_context

    tracer = provider.get_tracer("trs")

    def note(trace: EpochTrace) -> None:
        if not (trace.read or trace.log_rows or trace.derived or trace.failure):
            return
        first_s = min((step.began_s for step in trace.steps), default=0.0)
        facts: dict[str, Any] = {
            "trs.stage": trace.stage,
            "trs.epoch": trace.id,
            "trs.commit": trace.commit_id,
            "trs.read": trace.read,
            "trs.log_rows": trace.log_rows,
            "trs.derived": trace.derived,
            "trs.dead": sum(trace.dead.values()),
        }
        began = _ns(trace.began_at, min(0.0, first_s))
        root = tracer.start_span(f"epoch {trace.stage}", start_time=began, attributes=facts)
        if trace.failure is not None:
            root.set_status(Status(StatusCode.ERROR, trace.failure))
        below = set_span_in_context(root)
        for step in trace.steps:
            name = f"{step.name} {step.detail}".strip()
            span = tracer.start_span(name, context=below, start_time=_ns(trace.began_at, step.began_s))
            span.end(end_time=_ns(trace.began_at, step.began_s + step.seconds))
        root.end(end_time=_ns(trace.began_at, trace.seconds))

    return note


def _ns(at: datetime, offset_s: float) -> int:
    return int((at + timedelta(seconds=offset_s)).timestamp() * 1_000_000) * 1000
