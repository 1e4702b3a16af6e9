"""What a server counts, for Prometheus."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest


class Metrics:
    """Counters of one server, in a registry of their own."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.requests = Counter(
            "weft_requests", "Requests answered", ["route", "status"], registry=self.registry
        )
        self.prompt_tokens = Counter("weft_prompt_tokens", "Tokens of prompts", registry=self.registry)
        self.new_tokens = Counter("weft_generated_tokens", "Tokens written", registry=self.registry)
        self.open = Gauge("weft_requests_open", "Texts that wait or are written", registry=self.registry)
        self.active = Gauge("weft_rows_active", "Rows read or written", registry=self.registry)
        self.resident = Gauge("weft_adapters_resident", "Adapters that have a slot", registry=self.registry)
        self.reused = Gauge(
            "weft_prompt_tokens_reused", "Tokens of prompts not read again", registry=self.registry
        )
        self.first = Histogram(
            "weft_time_to_first_token_seconds", "From request to first token", registry=self.registry
        )

    def text(self, *, open: int, active: int, resident: int, reused: int) -> bytes:
        """The page that Prometheus reads."""
        self.open.set(open)
        self.active.set(active)
        self.resident.set(resident)
        self.reused.set(reused)
        return generate_latest(self.registry)
