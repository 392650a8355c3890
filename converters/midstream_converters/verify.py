"""The proof that a cut changes nothing: head and tail against the whole model, from reset state."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

from midstream.bundle import Bundle
from midstream.communication.codecs.steps import dequantise
from midstream.manifest import CARRIERS, WHOLE, head_name, tail_name
from midstream.tensors import Tensors
from midstream_converters import coding
from midstream_converters.batching import batch_error
from midstream_converters.difference import max_abs_error
from midstream_converters.samples import alike

Run = Callable[[Tensors], Tensors]


@dataclass(frozen=True, slots=True)
class CutProof:
    """How far a cut's answer is from the whole model's.

    Of a tail that answers several inputs at once, ``id`` has their number after ×, and the distance is to its answers
    to each alone. Of several stages, ``id`` names the cuts with + between. Of slices that code what crosses themselves
    it is the cut and the codec, and the distance is to what the plain slices and the codec give.
    """

    id: str
    max_abs_error: float

    def passes(self, tolerance: float) -> bool:
        """Whether the difference is within the tolerance; 0 asks for the same bits."""
        return self.max_abs_error <= tolerance


def prove(cuts: tuple[str, ...], split: Run, samples: Sequence[Tensors], expected: Sequence[Tensors]) -> CutProof:
    """Run the split on every sample and hold it against the whole model's answers; stops at an unbounded error."""
    worst = 0.0
    for sample, want in zip(samples, expected, strict=True):
        worst = max(worst, max_abs_error(want, split(sample)))
        if worst == float("inf"):
            break
    return CutProof("+".join(cuts), worst)


def verify_bundle(
    bundle: Bundle, samples: Sequence[Tensors], progress: Callable[[int, int], None] = lambda _done, _all: None
) -> list[CutProof]:
    """Repeat every proof of a bundle here and now: of cuts, of slices between two cuts, and of those that code."""
    expected = [bundle.run(sample) for sample in samples]
    chains = [(cut.id,) for cut in bundle.cuts] + list(bundle.manifest.middles())
    coded = [
        (cut.id, codec)
        for cut in bundle.cuts
        for codec in CARRIERS
        if tail_name(cut.id, codec) in bundle.manifest.slices
    ]
    batched = [cut_id for cut_id in (None, *(cut.id for cut in bundle.cuts)) if bundle.batch_sizes(cut_id)]
    total = len(chains) + len(coded) + len(batched)
    proofs = []
    for done, chain in enumerate(chains):
        progress(done, total)
        proofs.append(prove(chain, partial(bundle.run_split, cut=chain), samples, expected))
        for cut_id in chain:
            bundle.unload(cut_id)
    for done, (cut_id, codec) in enumerate(coded, len(chains)):
        progress(done, total)
        error = max(_coding_error(bundle, cut_id, codec, sample) for sample in samples)
        proofs.append(CutProof(f"{cut_id} {codec}", error))
        bundle.unload(cut_id)
    for done, tail in enumerate(batched, len(chains) + len(coded)):
        progress(done, total)
        proofs += _batch_proofs(bundle, tail, samples)
    progress(total, total)
    return proofs


def _batch_proofs(bundle: Bundle, cut_id: str | None, samples: Sequence[Tensors]) -> list[CutProof]:
    """How far the answers to several inputs at once are from those to each alone."""
    inputs = [bundle.check_inputs(sample) for sample in samples]
    came = inputs if cut_id is None else [bundle.run_head(cut_id, each)[0] for each in inputs]
    proving, run = alike(came), partial(bundle.run_tail, cut_id)
    answers = [run(each) for each in proving]
    name = WHOLE if cut_id is None else cut_id
    return [
        CutProof(f"{name} × {size}", batch_error(run, proving, answers, size)) for size in bundle.batch_sizes(cut_id)
    ]


def _coding_error(bundle: Bundle, cut_id: str, codec: str, sample: Tensors) -> float:
    """How far slices that code are from the plain ones and the codec; infinite where the codes are not the codec's."""
    inputs = bundle.check_inputs(sample)
    crossing, _ = bundle.run_head(cut_id, inputs)
    codes = coding.codes_of(crossing)
    error = 0.0
    if head_name(cut_id, codec) in bundle.manifest.slices:
        made = bundle.run_slice(head_name(cut_id, codec), inputs)
        error = max(max_abs_error({name: value}, {name: made[name]}) for name, value in crossing.items())
        if codes is not None:
            codes = {name: coding.carried(made, codec, name) for name in crossing}
            if not all(coding.right(codes[name], value) for name, value in crossing.items()):
                return float("inf")
    if codes is None:
        return error
    decoded: Tensors = {name: dequantise(codes[name]).reshape(value.shape) for name, value in crossing.items()}
    want = bundle.run_tail(cut_id, decoded)
    found = bundle.run_slice(tail_name(cut_id, codec), coding.carriers(codec, codes, crossing))
    return max(error, max_abs_error(want, found))
