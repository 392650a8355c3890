"""Which slices answer several inputs at once: those whose first axis is free, and mixes nothing."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from dense import DENSE, dense_bundle

from midstream.bundle import Bundle
from midstream.errors import InputError
from midstream_converters.batching import batch_error, free_axis, proven_sizes
from midstream_converters.verify import verify_bundle

# What comes of one input depends on the others beside it.
MIXED = DENSE.replace("y = MatMul(d, w)", "m = ReduceMean<axes = [0], keepdims = 1>(d) n = Sub(d, m) y = MatMul(n, w)")
# It depends on them only where one of them is large; samples are not.
RARELY_MIXED = DENSE.replace(
    "y = MatMul(d, w)",
    "u = Abs(d) l = ReduceMax<keepdims = 0>(u) t = Constant<value = float {1000.0}>() f = Greater(l, t) "
    "s = CastLike(f, d) m = ReduceMean<axes = [0], keepdims = 1>(d) p = Mul(m, s) n = Sub(d, p) y = MatMul(n, w)",
)
FIXED = DENSE.replace("float[N, 64]", "float[1, 64]")


def made(folder: Path, text: str) -> Bundle:
    return Bundle.open(dense_bundle(folder, text))


def test_tails_with_a_free_first_axis_answer_several_at_once(tmp_path: Path) -> None:
    bundle = made(tmp_path, DENSE)
    assert bundle.cuts
    assert all(bundle.batch_sizes(cut.id) == (2, 4, 8) for cut in bundle.cuts)
    assert bundle.batch_sizes(None) == (2, 4, 8)
    assert not any(bundle.manifest.slices[f"{cut.id}.head"].batch_sizes for cut in bundle.cuts)


def test_the_answers_are_those_to_each_alone(tmp_path: Path) -> None:
    bundle = made(tmp_path, DENSE)
    cut = bundle.cuts[0].id
    several = [{"x": np.random.default_rng(seed).normal(size=(1, 64)).astype(np.float32)} for seed in range(4)]
    encoded = [bundle.encode(cut, "raw", bundle.run_head(cut, each)[0]) for each in several]
    came = [bundle.decode_for_tail(cut, "raw", each, 1 << 20) for each in encoded]
    for each, row in zip(several, bundle.run_tails_on(came), strict=True):
        assert np.array_equal(row["y"], bundle.run(each)["y"])
    with pytest.raises(InputError, match="does not answer 3 inputs at once"):
        bundle.run_tails_on(came[:3])


@pytest.mark.parametrize("text", [MIXED, RARELY_MIXED, FIXED])
def test_others_do_not(tmp_path: Path, text: str) -> None:
    bundle = made(tmp_path, text)
    assert bundle.cuts
    assert not any(bundle.batch_sizes(cut.id) for cut in bundle.cuts)
    assert bundle.batch_sizes(None) == ()


def test_verifying_repeats_the_proof_of_batches(tmp_path: Path) -> None:
    bundle = made(tmp_path, DENSE)
    samples = [{"x": np.random.default_rng(seed).normal(size=(1, 64)).astype(np.float32)} for seed in range(2)]
    proofs = {proof.id: proof.max_abs_error for proof in verify_bundle(bundle, samples)}
    cut = bundle.cuts[0].id
    assert {f"{cut} × {size}" for size in (2, 4, 8)} <= proofs.keys()
    assert all(error == 0.0 for error in proofs.values())


def test_one_input_proves_nothing() -> None:
    bundle_input = {"x": np.ones((1, 4), np.float32)}
    assert proven_sizes(lambda tensors: tensors, (), [bundle_input, bundle_input], 0.0) == []


def test_what_a_batch_is_off_by_is_seen_in_the_row_it_is_in() -> None:
    samples = [{"x": np.full((1, 2), value, np.float32)} for value in (1.0, 2.0)]

    def run(tensors: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        out = tensors["x"] * 2
        out[3:] += 0.5
        return {"y": out}

    answers = [{"y": sample["x"] * 2} for sample in samples]
    assert batch_error(run, samples, answers, 2) == 0.0
    assert batch_error(run, samples, answers, 4) == 0.5
    assert batch_error(lambda _: {"y": np.ones((1, 2), np.float32)}, samples, answers, 2) == float("inf")
    assert not free_axis((), samples)
