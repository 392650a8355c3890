"""Measuring the ladder of real models: what is tried, what is kept, and what an odd input or model does to it."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import onnx.parser
import pytest

from midstream.agreement import Metric
from midstream.bundle import Bundle
from midstream.calibrating import calibrate, pareto, read_inputs
from midstream.communication.codecs import SLOW, codes, encode, find_codec
from midstream.errors import BundleError, CodecError, InputError
from midstream.ladder import Ladder, MeasuredRung
from midstream.ladder_file import ladder_from_bytes, ladder_to_bytes
from midstream.tensors import Tensors
from midstream_converters.convert import convert
from midstream_converters.opening import Options

MODELS = Path(__file__).resolve().parent.parent / "models"
DIGITS = MODELS / "digits_calibration.npz"
FEW = ("f16", "int8", "step0.25", "klt0.25", "step4")


def inputs(bundle: Bundle, count: int, seed: int = 0) -> list[Tensors]:
    """Noise of the sizes the bundle was verified with."""
    rng = np.random.default_rng(seed)

    def value(spec: object) -> np.ndarray:
        shape, dtype = bundle.manifest.sample_shapes[spec.name], spec.dtype  # type: ignore[attr-defined]
        return (rng.random(shape) * (100 if dtype.kind in "iu" else 1)).astype(dtype)

    return [{spec.name: value(spec) for spec in bundle.manifest.free_inputs()} for _ in range(count)]


def checked(ladder: Ladder) -> Ladder:
    """It says nothing that cannot be written and read."""
    assert ladder_from_bytes(ladder_to_bytes(ladder), "codecs.json").samples == ladder.samples
    for place in ladder.places:
        assert {"raw", "lossless"} <= {rung.codec for rung in place.rungs}
        assert list(place.rungs) == sorted(place.rungs, key=lambda rung: -rung.payload_bytes)
        assert all(rung.agreement >= ladder.min_agreement - 1e-9 for rung in place.rungs)
    return ladder


@pytest.fixture(scope="module")
def ladder(digits: Bundle) -> Ladder:
    return checked(calibrate(digits, read_inputs(digits, DIGITS)).ladder)


def test_all_places_are_measured_on_inputs_that_were_held_out(digits: Bundle, ladder: Ladder) -> None:
    assert [place.cut for place in ladder.places] == [None, *(cut.id for cut in digits.cuts)]
    assert (ladder.bundle, ladder.metric, ladder.samples, ladder.held_out) == (digits.digest.hex(), "auto", 24, True)
    assert ladder.whole_ms > 0


def test_a_rung_says_what_it_really_does(digits: Bundle, ladder: Ladder) -> None:
    held_out = read_inputs(digits, DIGITS)[24:]
    cut = digits.cuts[0].id
    place = ladder.place(cut)
    assert place is not None
    digits.ladder = ladder
    try:
        for rung in place.rungs:
            sizes, kept = [], []
            for sample in held_out:
                crossing, _ = digits.run_head(cut, sample)
                encoded = digits.encode(cut, rung.codec, crossing)
                sizes.append(sum(len(tensor.data) for tensor in encoded))
                found = digits.run_tail(cut, digits.decode(cut, rung.codec, encoded, 1 << 20))
                (whole,) = digits.run(sample).values()
                kept.append(next(iter(found.values())).argmax() == whole.argmax())
            assert rung.payload_bytes == pytest.approx(np.mean(sizes))
            assert rung.agreement == pytest.approx(np.mean(kept))
    finally:
        digits.ladder = None


def test_lossy_rungs_are_far_smaller_than_lossless_ones(ladder: Ladder) -> None:
    for place in ladder.places:
        smallest = min(rung.payload_bytes for rung in place.rungs if not rung.lossless)
        assert smallest < 0.5 * min(rung.payload_bytes for rung in place.rungs if rung.lossless)


def test_bases_are_kept_only_where_a_rung_needs_them(ladder: Ladder) -> None:
    for place in ladder.places:
        needed = any(find_codec(rung.codec).family == "klt" for rung in place.rungs)
        assert bool(place.bases) == needed


@pytest.mark.parametrize("count", [1, 2, 7])
def test_few_inputs_both_set_up_and_judge(digits: Bundle, count: int) -> None:
    ladder = checked(calibrate(digits, inputs(digits, count), codecs=FEW).ladder)
    assert (ladder.samples, ladder.held_out) == (count, False)
    assert calibrate(digits, inputs(digits, 8), codecs=(), cuts=()).ladder.held_out


@pytest.mark.parametrize(
    "name",
    [
        "digits_float32.onnx",
        "digits_float16.onnx",
        "digits_int8.tflite",
        "digits_two_halves.onnx",
        "keyword_gru.onnx",
        "digits_loop.onnx",
    ],
)
def test_models_of_every_kind_are_calibrated(made: Callable[[str], Bundle], name: str) -> None:
    bundle = made(name)
    ladder = checked(calibrate(bundle, inputs(bundle, 9), codecs=FEW).ladder)
    assert len(ladder.places) == 1 + len(bundle.cuts)


def test_a_tensor_that_was_never_coded_in_calibration_travels_exact(made: Callable[[str], Bundle]) -> None:
    bundle = made("digits_two_halves.onnx")
    samples = inputs(bundle, 9)
    blank = [{**sample, "right": np.zeros_like(sample["right"])} for sample in samples]
    for given, exact in ((samples, False), (blank, True)):
        ladder = calibrate(bundle, given, codecs=("step0.25",), cuts=(), min_agreement=0.0).ladder
        settings = ladder.settings(None, "step0.25")
        left, right = encode("step0.25", samples[0], {}, settings)
        assert codes("step0.25", [left])
        assert codes("step0.25", [right]) != exact


def test_quantised_tensors_have_lossless_rungs_only(made: Callable[[str], Bundle]) -> None:
    bundle = made("digits_int8.tflite")
    for place in calibrate(bundle, inputs(bundle, 9), min_agreement=0.0).ladder.places:
        assert {rung.codec.removesuffix(SLOW) for rung in place.rungs} == {"raw", "lossless"}


def test_the_whole_input_of_a_model_with_state_is_no_place(made: Callable[[str], Bundle]) -> None:
    bundle = made("keyword_lstm_stream.tflite")
    ladder = checked(calibrate(bundle, inputs(bundle, 9), codecs=FEW).ladder)
    assert [place.cut for place in ladder.places] == [cut.id for cut in bundle.cuts]


@pytest.mark.parametrize("shape", [lambda n: (1, 8 + 8 * (n % 4), 16), lambda n: (1 + n % 3, 16, 8)])
def test_inputs_may_differ_in_size(made: Callable[[str], Bundle], shape: Callable[[int], tuple[int, int, int]]) -> None:
    bundle = made("digits_any_size.onnx")
    (spec,) = bundle.inputs
    fixed = [size for size in spec.shape if size is not None]
    rng = np.random.default_rng(0)
    samples = []
    for number in range(40):
        free = iter(shape(number))
        sizes = tuple(next(free) if size is None else size for size in spec.shape)
        samples.append({spec.name: rng.random(sizes).astype(np.float32)})
    assert fixed != list(spec.shape)
    ladder = checked(calibrate(bundle, samples, min_agreement=0.0).ladder)
    assert all(len(place.rungs) > 3 for place in ladder.places)
    raw = ladder.rung(None, "raw")
    assert raw is not None
    assert raw.spread > 0.1


def test_nothing_may_cross_where_nothing_was_found(tmp_path: Path) -> None:
    model = onnx.parser.parse_model("""
        <ir_version: 8, opset_import: ["" : 17]>
        found (float[1,8] x) => (float[1] y)
        <float limit = {0.5}, float[1] two = {2.0}>
        {
            r = Relu (x)
            over = Greater (r, limit)
            row = Squeeze (over)
            kept = Compress <axis = 1> (r, row)
            doubled = Mul (kept, two)
            s = ReduceSum <keepdims = 0> (doubled)
            y = Add (s, two)
        }
    """)
    onnx.save(model, tmp_path / "found.onnx")
    rng = np.random.default_rng(0)
    samples = [rng.random((1, 8), np.float32) * (0.5 if number % 3 == 0 else 1) for number in range(12)]
    np.savez(tmp_path / "found.npz", x=np.stack(samples))
    convert(tmp_path / "found.onnx", tmp_path / "found", Options(calibration=tmp_path / "found.npz"))
    bundle = Bundle.open(tmp_path / "found")
    cut = next(cut.id for cut in bundle.cuts if cut.tensors[0].name == "kept")
    for codec in ("raw", "lossless", *FEW):
        assert bundle.run_split({"x": samples[0]}, cut, codec=codec)["y"] == 2.0
    ladder = checked(calibrate(bundle, [{"x": sample} for sample in samples], codecs=FEW, min_agreement=0.0).ladder)
    raw = ladder.rung(cut, "raw")
    assert raw is not None
    assert raw.spread > 1.0


def test_the_first_inputs_being_black_rules_nothing_out(digits: Bundle) -> None:
    samples = read_inputs(digits, DIGITS)
    for sample in samples[:5]:
        sample["image"] = np.zeros_like(sample["image"])
    tried = calibrate(digits, samples, codecs=FEW, min_agreement=0.0).tried
    assert {"int8", "step0.25", "step4"} <= {rung.codec for rung in tried[None]}


def test_inputs_that_are_no_numbers_travel_exact(digits: Bundle) -> None:
    samples = [{name: np.full_like(value, np.nan) for name, value in sample.items()} for sample in inputs(digits, 9)]
    ladder = checked(calibrate(digits, samples, codecs=FEW, min_agreement=0.0).ladder)
    assert all(
        {rung.codec.removesuffix(SLOW) for rung in place.rungs} == {"raw", "lossless"} for place in ladder.places
    )


def test_a_codec_below_the_agreement_is_given_up(digits: Bundle) -> None:
    cut = digits.cuts[0].id

    def metric(want: Tensors, got: Tensors) -> float:
        return 1.0 if all(np.array_equal(want[name], got[name]) for name in want) else 0.6

    kept = calibrate(digits, inputs(digits, 9), metric=metric, min_agreement=0.5, cuts=[cut], codecs=FEW)
    given_up = calibrate(digits, inputs(digits, 9), metric=metric, min_agreement=0.7, cuts=[cut], codecs=FEW)
    assert {"int8", "step0.25"} <= {rung.codec for rung in kept.tried[cut]}
    assert all(rung.agreement == pytest.approx(0.6) for rung in kept.tried[cut] if rung.codec in ("int8", "step0.25"))
    assert not {"int8", "step0.25"} & {rung.codec for rung in given_up.tried[cut]}
    assert kept.ladder.metric.endswith("metric")


def test_raw_and_lossless_are_there_whatever_is_asked_for(digits: Bundle) -> None:
    cut = digits.cuts[0].id
    for place in calibrate(digits, inputs(digits, 2), codecs=["jpeg75"], cuts=[cut, cut]).ladder.places:
        assert {rung.codec.removesuffix(SLOW) for rung in place.rungs} == {"raw", "lossless"}


@pytest.mark.parametrize(
    ("metric", "what"),
    [
        (lambda want, got: math.nan, "gave nan, needed a number"),
        (lambda want, got: 2.0, "gave 2.0"),
        (lambda want, got: "good", "gave 'good'"),
        (lambda want, got: want["nosuch"], "failed: KeyError"),
        (lambda want, got: 0.5, "gives 0.5 for an answer and itself, needed 1"),
        ("text:blank=x", "blank is 'x'"),
        ("boxes", "needs an output of boxes"),
    ],
)
def test_a_metric_that_is_none_is_told_before_anything_is_measured(
    digits: Bundle, metric: str | Metric, what: str
) -> None:
    said: list[str] = []
    with pytest.raises(InputError, match=what):
        calibrate(digits, inputs(digits, 2), metric=metric, progress=said.append)
    assert said == []


@pytest.mark.parametrize("agreement", [math.nan, -0.1, 1.1])
def test_an_agreement_that_is_no_share_is_refused(digits: Bundle, agreement: float) -> None:
    with pytest.raises(InputError, match=r"min_agreement is .*, needed a share of 0 to 1"):
        calibrate(digits, inputs(digits, 1), min_agreement=agreement)


def test_what_is_not_there_is_named(digits: Bundle) -> None:
    with pytest.raises(InputError, match="no inputs were given to calibrate bundle 'digits_float32'"):
        calibrate(digits, [])
    with pytest.raises(InputError, match="image"):
        calibrate(digits, [{"nosuch": np.zeros(3)}])
    with pytest.raises(BundleError, match="no cut 'c999'"):
        calibrate(digits, inputs(digits, 1), cuts=["c999"])
    with pytest.raises(CodecError, match="'gzip' is unknown"):
        calibrate(digits, inputs(digits, 1), codecs=["gzip"])


def test_answers_too_large_to_keep_are_refused(digits: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys.modules[calibrate.__module__], "MAX_ANSWER_BYTES", 100)
    with pytest.raises(InputError, match=r"to . inputs take .* bytes, and 100 are kept.*--samples ."):
        calibrate(digits, inputs(digits, 5))


def rung(codec: str, size: float, agreement: float, ms: float = 1.0) -> MeasuredRung:
    return MeasuredRung(codec, False, "none", agreement, size, 0.0, ms, 0.0)


def test_a_rung_stays_where_no_other_beats_it_in_all_three() -> None:
    best = [rung("int8", 100, 1.0), rung("step1", 50, 0.9), rung("f16", 200, 1.0, ms=0.1)]
    beaten = [rung("step2", 60, 0.9), rung("step4", 100, 0.95), rung("klt1", 50, 0.9, ms=2.0)]
    always = [
        replace(rung("raw", 400, 1.0, ms=9.0), lossless=True),
        replace(rung("lossless", 300, 1.0, 9.0), lossless=True),
    ]
    assert [found.codec for found in pareto([*beaten, *best, *always])] == ["raw", "lossless", "f16", "int8", "step1"]
    twins = [rung("int8", 100, 1.0), rung("step1", 100, 1.0)]
    assert len(pareto(twins)) == 2
    assert pareto([]) == ()


def test_a_lossy_rung_never_takes_the_place_of_one_that_loses_nothing() -> None:
    png = replace(rung("png", 100, 1.0), lossless=True)
    slower = replace(rung("webp101", 100, 1.0, ms=2.0), lossless=True)
    assert [found.codec for found in pareto([png, rung("step0.03", 90, 1.0)])] == ["png", "step0.03"]
    assert [found.codec for found in pareto([png, slower])] == ["png"]


def test_lengths_of_inputs_and_answers_are_learned(made: Callable[[str], Bundle]) -> None:
    """A loop whose number of steps, and so the length of one answer, follows from the picture."""
    bundle = made("digits_loop.onnx")
    rng = np.random.default_rng(3)
    (spec,) = bundle.inputs
    samples = [{spec.name: rng.random((1, 8, 8, 1)).astype(np.float32) * rng.random()} for _ in range(24)]
    found = calibrate(bundle, samples, codecs=("int8",)).ladder.reply
    assert found is not None
    sizes = [sum(tensor.nbytes for tensor in bundle.run(sample).values()) for sample in samples[12:]]
    assert found.mean_bytes == pytest.approx(np.mean(sizes))


def test_a_model_of_any_size_is_predicted_by_the_length_of_its_input(made: Callable[[str], Bundle]) -> None:
    bundle = made("digits_any_size.onnx")
    rng = np.random.default_rng(4)
    (spec,) = bundle.inputs
    sides = rng.integers(8, 40, 40)
    samples = [{spec.name: rng.random((1, int(side), int(side), 1)).astype(np.float32)} for side in sides]
    ladder = calibrate(bundle, samples, codecs=("int8",), min_agreement=0.0).ladder
    raw = ladder.rung(bundle.cuts[0].id, "raw")
    assert raw is not None
    assert raw.size is not None
    assert raw.size.error < 0.2 < raw.spread
    assert raw.size.weights["input_octaves"] > 0
