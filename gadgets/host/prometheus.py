"""What a hospital's monitoring sees of a host, in Prometheus' words.

Labels are words of fixed lists: nothing that a client, a sequence or a header says becomes one.
"""

import threading
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Protocol, TypeVar

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector
from prometheus_client.exposition import generate_latest

from ..errors import ConfigError, GadgetError, GadgetsError, HeaderError, ProtocolError
from ..mrd.geometry import Geometry
from ..mrd.items import Frame, Image, Item, Mask

Read = TypeVar("Read")
MASK_S = (0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2)
RECONSTRUCTION_S = (0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 30)
FALLBACKS = ("sampler_failed", "not_sent", "not_taken")
FAILURES: dict[type[BaseException], str] = {
    ConfigError: "config",
    HeaderError: "header",
    ProtocolError: "protocol",
    GadgetError: "reconstruction",
    EOFError: "connection",
    OSError: "connection",
}


class Metrics:
    """The figures of one host."""

    def __init__(self) -> None:
        self.registry = registry = CollectorRegistry()
        ProcessCollector(registry=registry)

        def counter(name: str, what: str, *labels: str) -> Counter:
            return Counter(f"mnet_{name}", what, labels, registry=registry)

        self.sessions = counter("sessions", "Connections, those that only asked included")
        self.open = Gauge("mnet_sessions_open", "Connections now", registry=registry)
        self.refused = counter("sessions_refused", "Connections beyond the limit of sessions")
        self.unrecorded = counter("scans_unrecorded", "Scans not recorded, or not to their end")
        self.acquisitions = counter("acquisitions", "Readouts received")
        self.masks = counter("masks_predicted", "Masks predicted, or tried to")
        self.sent = counter("masks_sent", "Masks handed to the mask channel")
        self.answers = counter("mask_answers", "What sequences answered, once per mask", "answer")
        self.fallbacks = counter(
            "fallbacks",
            "Slices measured with another mask: sampler_failed; not_sent (unpaired, or the "
            "sequence and the header disagree); not_taken (sent, but late or refused)",
            "reason",
        )
        self.images = counter("images", "Images sent")
        self.oddities = counter("oddities", "What a scan counted, such as doubled lines", "what")
        self.failures = counter("failures", "Sessions that ended with an error", "kind")
        self.mask_s = Histogram(
            "mnet_mask_seconds",
            "From a slice's last calibration line to its mask",
            buckets=MASK_S,
            registry=registry,
        )
        self.reconstruction_s = Histogram(
            "mnet_reconstruction_seconds",
            "Reconstruction of a slice",
            buckets=RECONSTRUCTION_S,
            registry=registry,
        )
        for reason in FALLBACKS:
            self.fallbacks.labels(reason)  # at 0 from the start: an alert can take its rate
        for kind in (*FAILURES.values(), "internal"):
            self.failures.labels(kind)

    def watch(self, name: str, what: str, value: Callable[[], float]) -> None:
        """Show a value that is asked for whenever somebody looks."""
        Gauge(f"mnet_{name}", what, registry=self.registry).set_function(value)

    def text(self) -> bytes:
        """Return everything in the text format 0.0.4."""
        return generate_latest(self.registry)


class Watch(Protocol):
    """Who looks on at one session; any thread of the session may call, and nobody waits."""

    def begun(self, geometry: Geometry, pipeline: str) -> None:
        """Note that a scan begins; `pipeline` is a name of ours, "" where the client sent it."""

    def passing(self, arrived: Iterator[Read]) -> Iterator[Read]:
        """Give what arrives, and note it when it has been dealt with."""

    def item(self, item: Item) -> None:
        """Note what the front made of lines."""

    def mask_message(self, direction: str, header: dict[str, Any]) -> None:
        """Note a message of the mask channel as JSON; its other end wrote it."""

    def image(self, image: Image) -> None:
        """Note an image that leaves."""

    def counts(self, counts: Mapping[str, int]) -> None:
        """Note that a scan has ended, and what it counted."""

    def failed(self, error: BaseException) -> None:
        """Note what ends the session."""


class Meter:
    """Counts what happens in one session, and tells who looks on; any thread of it may call."""

    def __init__(self, metrics: Metrics, watch: Watch | None = None) -> None:
        self.watch = watch
        self._failed = False
        self._metrics = metrics
        self._lock = threading.Lock()
        self._why: dict[tuple[int, int], str] = {}  # what a fallback in this scope would mean
        self._seen: set[Any] = set()  # answers and images that are counted already

    def begin(self) -> None:
        """Note that a connection was accepted."""
        self._metrics.sessions.inc()
        self._metrics.open.inc()

    def end(self) -> None:
        """Note that it has ended."""
        self._metrics.open.dec()

    def failed(self, error: BaseException) -> None:
        """Note what ends the session, once; where we have no word for it, that of its cause."""
        if self._failed:
            return
        self._failed = True
        if self.watch is not None:
            self.watch.failed(error)
        errors = (error, error.__cause__) if isinstance(error, GadgetsError) else (error,)
        kinds = (kind for e in errors for known, kind in FAILURES.items() if isinstance(e, known))
        self._metrics.failures.labels(next(kinds, "internal")).inc()

    def lines(self, n: int) -> None:
        """Note readouts that arrived."""
        self._metrics.acquisitions.inc(n)

    def item(self, item: Item) -> None:
        """Note masks, and frames that were measured with another one."""
        if self.watch is not None:
            self.watch.item(item)
        scope = (item.key.slice, item.key.repetition) if isinstance(item, Mask | Frame) else (0, 0)
        if isinstance(item, Mask):
            self._metrics.masks.inc()
            self._metrics.mask_s.observe(item.seconds)
            if item.sent:
                self._metrics.sent.inc()
            failed = item.reason.startswith("sampler failed")
            self._why[scope] = FALLBACKS[0 if failed else 2 if item.sent else 1]
        elif isinstance(item, Frame) and item.meta.get("fallback") == "true":
            why = self._why.pop(scope, None)
            if why is not None:  # not counted yet for another contrast of the slice
                self._metrics.fallbacks.labels(why).inc()

    def mask_message(self, direction: str, header: dict[str, Any]) -> None:
        """Note the first answer to a mask; `header` is a message of the mask channel as JSON."""
        if self.watch is not None:
            self.watch.mask_message(direction, header)
        if direction == "received" and header["kind"] in ("ack", "nack"):
            answer = header["kind"] if header["kind"] == "ack" else header["reason"]
            if self._is_new(("answer", header["message_id"], answer)):
                self._metrics.answers.labels(answer).inc()

    def counts(self, counts: Mapping[str, int]) -> None:
        """Note what a scan has counted in the end; the words are the gadgets' own."""
        if self.watch is not None:
            self.watch.counts(counts)
        for what, n in counts.items():
            self._metrics.oddities.labels(what).inc(n)

    def image(self, image: Image) -> None:
        """Note an image that leaves; the series of one frame share its time."""
        if self.watch is not None:
            self.watch.image(image)
        self._metrics.images.inc()
        ms, header = image.meta.get("mnet_recon_ms"), image.header
        names = ("slice", "contrast", "phase", "repetition", "set", "average")
        if ms is not None and self._is_new(("image", *(int(header[name]) for name in names))):
            self._metrics.reconstruction_s.observe(float(ms) / 1e3)

    def _is_new(self, what: Any) -> bool:
        with self._lock:
            new = what not in self._seen
            self._seen.add(what)
            return new
