"""One stage of a request: decoded, run and encoded, for the device or for the gateway that runs the next stage."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

from midstream.allocation.batching import BatchTimes
from midstream.allocation.usage import Partition
from midstream.bundle import Bundle, TailInputs
from midstream.communication.codecs import encode
from midstream.communication.presence import Presence
from midstream.communication.wire import MAX_DEADLINE_MS, Reply, Request, Status, forwarded
from midstream.errors import CodecError, InputError, MidstreamError
from midstream.gateway.duplicates import Identity
from midstream.gateway.observing import partition_of
from midstream.gateway.peers import Peers, knows_zstd
from midstream.gateway.served import ServedBundle
from midstream.tensors import Tensors


@dataclass(slots=True)
class Job:
    """A request that was let in; ``packed`` if it came with others, so that its reply may go with theirs.

    Times are seconds on `time.monotonic`. ``expected_s`` after it came, it was expected to end when it was let in.
    ``partition`` is the stage that it asks for.
    """

    request: Request
    device_id: str
    served: ServedBundle
    deadline: float
    arrived: float
    packed: bool
    identity: Identity
    size_bytes: int
    expected_s: float = 0.0
    partition: Partition = field(init=False)

    def __post_init__(self) -> None:
        self.partition = partition_of(self.request)

    @property
    def next_cut(self) -> str | None:
        """Where the stage ends; None where it ends with the model."""
        return self.request.onward[0].cut if self.request.onward else None

    @property
    def expected_ms(self) -> float:
        """What the stage is expected to take, alone."""
        return self.served.expected_ms(self.request.cut, self.next_cut)

    @property
    def batches(self) -> BatchTimes | None:
        """What several at once take; None where this is no tail that was proven to run so."""
        return None if self.request.onward else self.served.batches.get(self.request.cut)


@dataclass(frozen=True, slots=True)
class Onward:
    """A request for the gateway that runs the next stage."""

    gateway_id: str
    request: Request


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a stage has made: a reply, a request to pass on, or both: then the reply is partial."""

    reply: Reply | None
    onward: Onward | None = None


@dataclass(slots=True)
class Spent:
    """Milliseconds that a stage has taken so far, by step: of this thread's processor time, and by the clock.

    ``batch`` ran at once.
    """

    cpu_ms: dict[str, float] = field(default_factory=dict)
    timings_ms: dict[str, float] = field(default_factory=dict)
    batch: int = 1

    @contextmanager
    def on(self, step: str) -> Iterator[None]:
        """What runs within is this step."""
        cpu, began = time.thread_time(), time.perf_counter()
        try:
            yield
        finally:
            self.cpu_ms[step] = (time.thread_time() - cpu) * 1e3
            self.timings_ms[step] = (time.perf_counter() - began) * 1e3


def run_stages(jobs: Sequence[Job], worker: int, peers: Peers, spent: Sequence[Spent]) -> list[Outcome]:
    """Run the stages of one job, or of several of one group at once, in this worker's copy of the bundle.

    An outcome for each of them; the processor time of running at once is counted for all in equal parts.
    """
    bundle = jobs[0].served.bundles[worker]
    if len(jobs) > 1:
        return _run_together(jobs, bundle, spent)
    (job,), (each,), started = jobs, spent, time.monotonic()
    if late := _late(job, each, started):
        return [late]
    try:
        if job.request.onward:
            return [_run_middle(job, bundle, peers, started, each)]
        return [_run_tail(job, bundle, _decoded(job, bundle, each), started, each)]
    except MidstreamError as error:
        return [_failed(job, each, error)]


def _late(job: Job, spent: Spent, started: float) -> Outcome | None:
    """Why a job whose time is over is not run; None where it is not over."""
    queue_ms = spent.timings_ms["queue"] = (started - job.arrived) * 1e3
    return (
        refusal(job, Status.EXPIRED, "its deadline passed in the queue", queue_ms) if started > job.deadline else None
    )


def _failed(job: Job, spent: Spent, error: MidstreamError) -> Outcome:
    status = Status.BAD_REQUEST if isinstance(error, CodecError | InputError) else Status.FAILED
    return refusal(job, status, str(error), spent.timings_ms["queue"])


def refusal(job: Job, status: Status, message: str, queue_ms: float = 0.0) -> Outcome:
    """No stage was run, or what it made is of no use, for this reason."""
    return Outcome(Reply(job.request.request_id, status, (), "raw", queue_ms, 0.0, message))


def _run_together(jobs: Sequence[Job], bundle: Bundle, spent: Sequence[Spent]) -> list[Outcome]:
    """Tails at once; where they cannot run so, one after another, so that each is told what is wrong with it."""
    started = time.monotonic()
    came: dict[int, TailInputs] = {}
    outcomes: dict[int, Outcome] = {}
    for place, (job, each) in enumerate(zip(jobs, spent, strict=True)):
        if late := _late(job, each, started):
            outcomes[place] = late
            continue
        try:
            came[place] = _decoded(job, bundle, each)
        except MidstreamError as error:
            outcomes[place] = _failed(job, each, error)
    together = Spent()
    try:
        with together.on("run"):
            rows = bundle.run_tails_on(list(came.values()))
    except MidstreamError:
        rows = []
    for place, outputs in zip(came, rows, strict=False):
        job, each = jobs[place], spent[place]
        each.batch = len(rows)
        each.timings_ms["run"] = together.timings_ms["run"]
        each.cpu_ms["run"] = together.cpu_ms["run"] / len(rows)
        with each.on("encode"):
            outcomes[place] = Outcome(_reply(job, bundle, outputs, each.timings_ms["queue"], started))
    for place in came.keys() - outcomes.keys():
        try:
            outcomes[place] = _run_tail(jobs[place], bundle, came[place], started, spent[place])
        except MidstreamError as error:
            outcomes[place] = _failed(jobs[place], spent[place], error)
    return [outcomes[place] for place in range(len(jobs))]


def _decoded(job: Job, bundle: Bundle, spent: Spent) -> TailInputs:
    request = job.request
    with spent.on("decode"):
        return bundle.decode_for_tail(request.cut or None, request.codec, request.tensors, job.served.max_request_bytes)


def _run_tail(job: Job, bundle: Bundle, came: TailInputs, started: float, spent: Spent) -> Outcome:
    with spent.on("run"):
        outputs = bundle.run_tail_on(came)
    job.served.ran(job.request.cut, spent.timings_ms["run"])
    with spent.on("encode"):
        return Outcome(_reply(job, bundle, outputs, spent.timings_ms["queue"], started))


def _run_middle(job: Job, bundle: Bundle, peers: Peers, started: float, spent: Spent) -> Outcome:
    request, next_cut = job.request, job.request.onward[0].cut
    queue_ms = spent.timings_ms["queue"]
    with spent.on("decode"):
        came = bundle.decode(request.cut or None, request.codec, request.tensors, job.served.max_request_bytes)
    with spent.on("run"):
        if request.cut:
            crossing, outputs = bundle.run_middle(request.cut, next_cut, came)
        else:
            crossing, outputs = bundle.run_head(next_cut, bundle.check_inputs(came))
    job.served.ran(request.cut, spent.timings_ms["run"], next_cut)
    peer, problem = peers.runner(request)
    if peer is None:
        return refusal(job, Status.CANNOT_FORWARD, problem, queue_ms)
    with spent.on("encode"):
        passed = _passed_on(job, bundle, peer, crossing)
        if passed is None:
            return refusal(job, Status.EXPIRED, "its deadline passed before it could be passed on", queue_ms)
        reply = _reply(job, bundle, outputs, queue_ms, started) if outputs else None
    return Outcome(reply, passed)


def _passed_on(job: Job, bundle: Bundle, peer: Presence, crossing: Tensors) -> Onward | None:
    """The request for the next stage; None where its time is over."""
    codec = job.request.codec
    encoded = bundle.encode(job.request.onward[0].cut, codec, crossing, knows_zstd(peer))
    remaining_ms = int((job.deadline - time.monotonic()) * 1e3)
    if remaining_ms < 1:
        return None
    _, request = forwarded(job.request, codec, encoded, min(remaining_ms, MAX_DEADLINE_MS))
    return Onward(peer.gateway_id, request)


def _reply(job: Job, bundle: Bundle, outputs: Tensors, queue_ms: float, started: float) -> Reply:
    """A reply with these outputs; partial where further stages make the others."""
    # What came lossy may go back lossless: outputs are small, and they are the answer.
    codec = "raw" if job.request.codec == "raw" else "lossless"
    ordered = {spec.name: outputs[spec.name] for spec in bundle.outputs if spec.name in outputs}
    places = tuple(place for place, spec in enumerate(bundle.outputs) if spec.name in outputs)
    encoded = encode(codec, ordered, {})
    compute_ms = (time.monotonic() - started) * 1e3
    return Reply(
        job.request.request_id,
        Status.OK,
        encoded,
        codec,
        queue_ms,
        compute_ms,
        outputs=places,
        partial=bool(job.request.onward),
    )
