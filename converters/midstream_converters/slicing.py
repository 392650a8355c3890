"""What a cut becomes: a head and a tail, and the middles between two cuts, as programs with what goes in and out."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from midstream.manifest import WHOLE, Cut, head_name, middle_name, tail_name
from midstream_converters.cuts import Candidate
from midstream_converters.graph import PLAIN, Slice, Source, Variant, carried
from midstream_converters.linear import revealing


@dataclass(frozen=True, slots=True)
class Halves:
    """A cut with its two programs. ``wide``: half-precision values cross in single precision."""

    cut: Cut
    head: Slice
    tail: Slice
    wide: bool


def whole(source: Source) -> Slice:
    """The whole model, rebuilt."""
    everything = tuple(range(len(source.graph.nodes)))
    return source.slice(_member(WHOLE, source), everything, source.graph.inputs, source.graph.outputs, PLAIN)


def halves(
    source: Source,
    candidate: Candidate,
    *,
    wide: bool = False,
    head_without: tuple[str, ...] = (),
    tail_without: tuple[str, ...] = (),
    codec: str = "",
) -> Halves:
    """Head and tail of a candidate, each without some of the runtime's optimisations.

    With a codec, the head encodes what crosses as well and the tail decodes it first; it must not be ``wide``.
    """
    graph = source.graph
    in_head, in_tail = set(candidate.head), set(candidate.tail)
    made = [value for value in candidate.crossing if value in graph.producer]
    # An output that no layer makes is an input handed through, which the head has, or a constant, which is known.
    outputs_here = tuple(v for v in graph.outputs if graph.producer.get(v) in in_head - in_tail or v in graph.inputs)
    outputs_there = tuple(v for v in graph.outputs if v not in outputs_here)
    head_outputs = dict.fromkeys([*made, *(v for v in outputs_here if v in graph.producer)])
    head_inputs = _read_by(source, candidate.head, graph.inputs)
    cut = Cut(
        candidate.id,
        tuple(carried(graph, value, wide) for value in candidate.crossing),
        candidate.payload_bytes,
        candidate.head,
        outputs_here,
        candidate.share,
        reveals_input=not revealing(graph).isdisjoint(candidate.crossing),
    )
    coded = candidate.crossing if codec else ()
    first = Variant(gives_wide=wide, without=head_without, codec=codec, gives_coded=coded)
    second = Variant(takes_wide=wide, without=tail_without, codec=codec, takes_coded=coded)
    return Halves(
        cut,
        source.slice(
            _member(head_name(cut.id, codec), source), candidate.head, head_inputs, tuple(head_outputs), first
        ),
        source.slice(
            _member(tail_name(cut.id, codec), source), candidate.tail, candidate.crossing, outputs_there, second
        ),
        wide,
    )


def middle(source: Source, first: Candidate, second: Candidate, variant: Variant) -> Slice | None:
    """What runs between two cuts; None where the head of the first is no part of the second's."""
    graph = source.graph
    if not set(first.head) < set(second.head):
        return None
    after, before = set(first.tail), set(second.head)
    nodes = graph.with_static(i for i in after & before if not graph.nodes[i].static)
    made = {value for index in nodes for value in graph.nodes[index].outputs}
    crossing = [value for value in second.crossing if value in made]
    outputs = [v for v in graph.outputs if graph.producer.get(v) in after & before - set(second.tail)]
    return source.slice(
        _member(middle_name(first.id, second.id), source),
        nodes,
        _read_by(source, nodes, first.crossing),
        tuple(dict.fromkeys([*crossing, *outputs])),
        variant,
    )


def has_half(source: Source, candidate: Candidate) -> bool:
    """Whether a value crosses that a wide variant would carry in another way."""
    return any(carried(source.graph, value, wide=True).name != value for value in candidate.crossing)


def _read_by(source: Source, nodes: Iterable[int], values: Iterable[str]) -> tuple[str, ...]:
    """Those of the values that these layers read."""
    read = {value for index in nodes for value in source.graph.nodes[index].inputs}
    return tuple(value for value in values if value in read)


def _member(name: str, source: Source) -> str:
    return f"{name}.{'onnx' if source.engine == 'onnx' else 'tflite'}"
