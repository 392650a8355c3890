"""The proof that a cut changes nothing: head and tail against the whole model, from reset state."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

from midstream.bundle import Bundle
from midstream.tensors import Tensors
from midstream_converters.difference import max_abs_error

Run = Callable[[Tensors], Tensors]


@dataclass(frozen=True, slots=True)
class CutProof:
    """How far a cut's answer is from the whole model's; of several stages, ``id`` names the cuts with + between."""

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
    """Repeat the proof of every cut of a bundle, and of every pair of cuts with a slice between them, here and now."""
    expected = [bundle.run(sample) for sample in samples]
    chains = [(cut.id,) for cut in bundle.cuts] + list(bundle.manifest.middles())
    proofs = []
    for done, chain in enumerate(chains):
        progress(done, len(chains))
        proofs.append(prove(chain, partial(bundle.run_split, cut=chain), samples, expected))
        for cut_id in chain:
            bundle.unload(cut_id)
    progress(len(chains), len(chains))
    return proofs
