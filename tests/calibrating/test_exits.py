"""Early exits: what they are made of, how one is learned, and what a bundle makes of one that is not its own."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from gratings import CLASSES, pictures

from midstream.analysis import Analysis
from midstream.bundle import Bundle
from midstream.calibrating import check_exit_target, learn_exit, remove_exit, write_exit
from midstream.calibrating.chances import fit_chance
from midstream.calibrating.exits import kind_of_scores, parted, ridges, threshold, ways_to_pool
from midstream.errors import BundleError, InputError
from midstream.exits import EXITS_FILE, Chance, Exit, Pooling, as_output, choices, confidence, logits, told
from midstream.exits_file import exit_to_bytes
from midstream.seal import seal
from midstream.tensors import TensorSpec

FLOAT32, INT8 = np.dtype(np.float32), np.dtype(np.int8)
NAN = math.nan


@pytest.fixture(scope="module")
def learned(gratings: Bundle) -> Exit:
    found = learn_exit(gratings, [{"picture": each} for each in pictures(600, 5)[0]], target=0.95)
    assert found.exit is not None, found
    return found.exit


@pytest.fixture
def copy(gratings: Bundle, tmp_path: Path) -> Path:
    return Path(shutil.copytree(gratings.path, tmp_path / "copy"))


def test_pooling_by_hand() -> None:
    spec = TensorSpec("t", FLOAT32, (1, 2, 3, 1))
    tensor = np.arange(6, dtype=np.float32).reshape(1, 2, 3, 1)
    # Rows are parted 1 and 1, columns 1 and 2; then the largest of all.
    assert Pooling(-1, 2).numbers(tensor, spec).tolist() == [0.0, 1.5, 3.0, 4.5, 5.0]
    assert Pooling(-1, 1).numbers(tensor, spec).tolist() == [2.5, 5.0]
    assert Pooling(None).numbers(tensor, spec).tolist() == [0, 1, 2, 3, 4, 5]


@pytest.mark.parametrize("shape", [(1, 7, 5, 3), (1, 2, 2, 3), (1, 9, 3), (1, 1, 3)])
@pytest.mark.parametrize("grid", [1, 2, 4])
def test_channels_first_and_last_pool_alike(shape: tuple[int, ...], grid: int) -> None:
    tensor = np.random.default_rng(1).standard_normal(shape).astype(np.float32)
    turned = np.moveaxis(tensor, -1, 1)
    last, first = Pooling(-1, grid), Pooling(1, grid)
    numbers = last.numbers(tensor, TensorSpec("t", FLOAT32, shape))
    assert np.allclose(numbers, first.numbers(turned, TensorSpec("t", FLOAT32, turned.shape)))
    assert last.count(shape) == first.count(turned.shape) == len(numbers)
    assert last.count((1, *[None] * (len(shape) - 2), 3)) == len(numbers)
    assert last.count((*shape[:-1], None)) is None


def test_quantised_tensors_are_pooled_as_what_they_stand_for() -> None:
    spec = TensorSpec("t", INT8, (1, 4), scale=0.5, zero_point=-2)
    assert Pooling(None).numbers(np.array([[-2, 0, 2, 4]], np.int8), spec).tolist() == [0, 1, 2, 3]


@pytest.mark.parametrize("kind", ["shares", "logits", "share"])
def test_what_is_learned_and_what_is_answered_are_of_one_kind(kind: Any) -> None:
    rng = np.random.default_rng(2)
    values = rng.dirichlet(np.ones(5)) if kind == "shares" else rng.standard_normal(5) * 9
    if kind == "share":
        values = np.array([0.3])
    spec = TensorSpec("scores", FLOAT32, (1, len(values)))
    answer = values.astype(np.float32).reshape(1, -1)
    back = as_output(logits(answer, spec, kind), kind, spec)
    assert back.dtype == FLOAT32
    assert back.shape == answer.shape
    assert np.allclose(back, answer, atol=1e-4)


def test_a_quantised_output_is_answered_quantised() -> None:
    spec = TensorSpec("scores", INT8, (1, 3), scale=1 / 256, zero_point=-128)
    answer = np.array([[90, -115, -103]], np.int8)
    back = as_output(logits(answer, spec, "shares"), "shares", spec)
    assert back.dtype == INT8
    assert np.abs(back.astype(int) - answer).max() <= 1
    assert back.argmax() == 0
    # One that would not fit is the nearest that does.
    assert as_output(np.array([900.0, -900.0, 0.0]), "logits", spec).tolist() == [[127, -128, -128]]


@pytest.mark.parametrize(
    ("shape", "given"),
    [
        ((3,), (3,)),
        ((1, 1, 1, 3), (1, 1, 1, 3)),
        ((1, 3, 1, 1), (1, 3, 1, 1)),
        ((None, 3, 1, 1), (1, 3, 1, 1)),
        ((None, None), (1, 3)),
    ],
)
def test_an_answer_has_the_shape_of_the_model_s(shape: tuple[int | None, ...], given: tuple[int, ...]) -> None:
    spec = TensorSpec("scores", FLOAT32, shape)
    answer = np.array([0.1, 0.7, 0.2], np.float32).reshape(given)
    assert kind_of_scores(spec, [answer, answer]) == "shares"
    back = as_output(logits(answer, spec, "shares"), "shares", spec)
    assert back.shape == given
    assert np.allclose(back, answer)


def test_what_is_more_or_less_than_one_vector_is_no_scores() -> None:
    spec = TensorSpec("scores", FLOAT32, (None, None))
    for shapes in ([(2, 3)], [(1, 3), (1, 4)], [()], [(1, 0)], [(1, 4097)]):
        assert kind_of_scores(spec, [np.zeros(shape, np.float32) for shape in shapes]) is None


def test_what_quantising_makes_equal_is_told_as_the_output_is() -> None:
    spec = TensorSpec("scores", INT8, (1, 3), scale=0.5, zero_point=0)
    found = np.array([[10.0, 10.2, 0.0], [70.0, 90.0, 0.0], [1.0, 2.0, 0.0]])
    assert choices(found).tolist() == [1, 1, 1]
    # 10.2 is rounded to 10, and 90 is more than 63.5, the most there is.
    assert told(found, "logits", spec).tolist() == [0, 0, 1]


def test_how_sure_an_answer_is() -> None:
    assert confidence(np.array([[1.0, 4.0, 2.5], [3.0, 3.0, 0.0]])).tolist() == [1.5, 0.0]
    assert confidence(np.array([[-2.0], [0.5]])).tolist() == [2.0, 0.5]
    assert choices(np.array([[1.0, 4.0, 2.5]])).tolist() == [1]
    assert choices(np.array([[-2.0], [0.5]])).tolist() == [0, 1]


def test_the_threshold_takes_as_many_answers_as_show_the_agreement() -> None:
    sure = np.arange(600, 0, -1).astype(np.float64)
    right = np.ones(600, bool)
    assert threshold(sure, right, 0.99) == 1.0
    # 0.99²⁹⁸ is just above one twentieth.
    assert threshold(sure[:298], right[:298], 0.99) is None
    assert threshold(sure[:299], right[:299], 0.99) == sure[298]
    wrong = right.copy()
    wrong[500:] = False
    # Of 501 answers one may be wrong, for which it takes 473; two take 628.
    assert threshold(sure, wrong, 0.99) == sure[500]


def test_answers_as_sure_as_each_other_are_given_together() -> None:
    sure = np.concatenate([np.full(320, 2.0), np.full(50, 1.0)])
    right = np.concatenate([np.ones(320, bool), np.zeros(50, bool)])
    assert threshold(sure, right, 0.99) == 2.0
    right[[0, 1]] = False
    assert threshold(sure, right, 0.99) is None


def test_parts_are_runs_of_neighbours() -> None:
    answered = np.random.default_rng(3).integers(0, 4, 400)
    parts, held = parted(answered)
    assert sorted(np.concatenate([*parts, held]).tolist()) == list(range(400))
    assert len(held) == 100
    # Twenty runs, of which five are held out: an input and the next are parted at most at their ends.
    assert np.count_nonzero(np.diff(held) != 1) == 4


def test_parts_are_taken_at_random_where_runs_would_be_classes() -> None:
    parts, held = parted(np.repeat(np.arange(4), 100))
    assert sorted(np.concatenate([*parts, held]).tolist()) == list(range(400))
    for part in (*parts, held):
        assert len(np.unique(part // 100)) == 4


def test_a_chance_is_learned_where_features_tell() -> None:
    rng = np.random.default_rng(4)
    features = [{"blur": float(blur), "noise": float(rng.standard_normal())} for blur in rng.uniform(0, 10, 300)]
    happened = np.array([each["blur"] + rng.normal() < 5 for each in features])
    chance = fit_chance(features, happened)
    assert chance is not None
    assert chance.error < 0.5 * chance.constant_error
    sharp, blurred = chance.of({"blur": 1.0, "noise": 0.0}), chance.of({"blur": 9.0, "noise": 0.0})
    assert sharp is not None
    assert blurred is not None
    assert sharp > 0.9 > 0.1 > blurred
    assert chance.of({"blur": 1.0}) is None
    assert chance.of({"blur": 1.0, "noise": NAN}) is None


def test_a_chance_that_is_no_better_than_the_mean_is_none() -> None:
    rng = np.random.default_rng(5)
    features = [{"noise": float(value)} for value in rng.standard_normal(300)]
    happened = rng.random(300) < 0.7
    assert fit_chance(features, happened) is None
    assert fit_chance(features, np.ones(300, bool)) is None
    assert fit_chance([], happened) is None
    assert fit_chance([{"noise": NAN}] * 300, happened) is None


def test_the_extremes_of_a_chance_are_0_and_1() -> None:
    chance = Chance(0.0, {"a": 1e6}, 0.1, 0.2)
    assert (chance.of({"a": 1e6}), chance.of({"a": -1e6}), chance.of({"a": 0.0})) == (1.0, 0.0, 0.5)


def test_an_exit_answers_what_is_easy_as_the_whole_model_does(learned: Exit, copy: Path) -> None:
    write_exit(Bundle.open(copy), learned)
    bundle = Bundle.open(copy)
    assert bundle.early_exit is not None
    assert (learned.head_ms + learned.exit_ms) / learned.whole_ms <= 0.5
    fresh, _ = pictures(300, 99)
    answered, agreed = 0, 0
    for picture in fresh:
        crossing, _ = bundle.run_head(learned.cut, {"picture": picture})
        early = bundle.run_exit(crossing)
        if early is not None:
            answered += 1
            agreed += early["shares"].argmax() == bundle.run({"picture": picture})["shares"].argmax()
            assert early["shares"].shape == (1, CLASSES)
            assert early["shares"].sum() == pytest.approx(1.0)
    assert 0.2 < answered / len(fresh) < 1.0
    assert agreed / answered >= 0.93


def test_what_is_not_finite_is_never_answered(gratings: Bundle, learned: Exit) -> None:
    specs = gratings.crossing_specs(learned.cut)
    for value in (np.nan, np.inf):
        crossing = {spec.name: np.full([size or 1 for size in spec.shape], value, np.float32) for spec in specs}
        with np.errstate(invalid="ignore", over="ignore"):
            assert learned.answer(crossing, specs, gratings.outputs[0]) is None


def exit_of(weights: Any, pooling: Pooling, **fields: Any) -> Exit:
    """An exit on a tensor "t", of shares in "o"."""
    taught = np.array(weights, np.float32)
    known = {"bundle": "", "cut": "c1", "output": "o", "scores": "shares", "poolings": {"t": pooling}, "threshold": 1.0}
    known |= {"target": 0.99, "answered_share": 0.5, "agreement": 0.99, "samples": 300, "held_out": 100}
    known |= {"weights": taught, "bias": np.zeros(taught.shape[1], np.float32)}
    return Exit(**(known | {"head_ms": 1.0, "exit_ms": 0.1, "whole_ms": 4.0} | fields))


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("tensor", [[3e38, 0.0], [2e38, 3e38], [3e38, 3e38]])
def test_finite_values_too_large_to_add_up_are_not_answered(tensor: list[float]) -> None:
    output = TensorSpec("o", FLOAT32, (1, 3))
    flat = exit_of([[3, 0, -1], [0, 0, 1]], Pooling(None))
    assert flat.answer({"t": np.array([tensor], np.float32)}, [TensorSpec("t", FLOAT32, (1, 2))], output) is None
    summed = exit_of([[3, 0, -1], [0, 0, 1]], Pooling(-1))
    row = np.array(tensor, np.float32).reshape(1, 2, 1)
    assert summed.answer({"t": row}, [TensorSpec("t", FLOAT32, (1, 2, 1))], output) is None


def test_a_batch_and_what_is_empty_are_not_answered() -> None:
    early = exit_of(np.zeros((2, 3)), Pooling(1), bias=np.array([5, 0, 0], np.float32))
    specs, output = [TensorSpec("t", FLOAT32, (None, 1, None, None))], TensorSpec("o", FLOAT32, (None, 3))
    assert early.answer({"t": np.ones((1, 1, 4, 4), np.float32)}, specs, output) is not None
    for shape in ((2, 1, 4, 4), (0, 1, 4, 4), (1, 1, 0, 4)):
        assert early.answer({"t": np.ones(shape, np.float32)}, specs, output) is None


def test_no_more_is_assured_than_was_asked_or_found() -> None:
    assert exit_of([[1, 0]], Pooling(None), target=0.95, agreement=1.0).assured == 0.95
    assert exit_of([[1, 0]], Pooling(None), target=0.99, agreement=0.97).assured == 0.97


def test_sequences_in_onnx_are_pooled_over_either_axis() -> None:
    specs = [TensorSpec("t", FLOAT32, (1, 16, 100)), TensorSpec("p", FLOAT32, (1, 8, 4, 4))]
    onnx = {tuple(each.axis for each in way.values()) for way in ways_to_pool(specs, "onnx")}
    assert onnx == {(-1, 1), (1, 1)}
    assert {tuple(each.axis for each in way.values()) for way in ways_to_pool(specs, "litert")} == {(-1, -1)}
    # Where the steps are of no fixed number, only one of the two can be.
    (way, *_) = ways_to_pool([TensorSpec("t", FLOAT32, (1, 16, None))], "onnx")
    assert way["t"].axis == 1


def test_what_is_constant_but_for_its_rounding_teaches_nothing() -> None:
    rng = np.random.default_rng(8)
    known = rng.standard_normal(300)
    nearly = np.float32(0.7) * (1 + 1e-7 * known)
    for weights, bias in ridges(np.stack([known, nearly], 1), known[:, None]).values():
        assert weights[1] == 0
        assert np.abs(bias).max() < 1


def test_many_small_scores_of_their_own_are_no_shares() -> None:
    rng = np.random.default_rng(9)
    alone = [(0.02 * rng.random((1, 200))).astype(np.float32) for _ in range(5)]
    assert kind_of_scores(TensorSpec("o", FLOAT32, (1, 200)), alone) == "logits"
    whole = [rng.dirichlet(np.ones(200)) for _ in range(5)]
    assert (
        kind_of_scores(TensorSpec("o", FLOAT32, (1, 200)), [row[None].astype(np.float32) for row in whole]) == "shares"
    )
    spec = TensorSpec("o", INT8, (1, 200), scale=1 / 256, zero_point=-128)
    assert kind_of_scores(spec, [(np.floor(row * 256) - 128).astype(np.int8)[None] for row in whole]) == "shares"


def test_too_few_inputs_cannot_show_an_agreement(gratings: Bundle) -> None:
    samples = [{"picture": each} for each in pictures(20, 5)[0]]
    with pytest.raises(InputError, match=r"20 inputs cannot show an agreement of 0\.99: .* it takes 398; give more"):
        learn_exit(gratings, samples)
    # However little is asked for: parts and what is held out take some.
    with pytest.raises(InputError, match="it takes 40; give more"):
        learn_exit(gratings, samples, target=0.2)
    for target in (0.0, 1.0, -1.0, 1e-20, NAN):
        with pytest.raises(InputError, match="cannot be shown of an exit"):
            learn_exit(gratings, samples, target=target)


def test_inputs_of_one_kind_teach_nothing(gratings: Bundle) -> None:
    found = learn_exit(gratings, [{"picture": pictures(1, 5)[0][0]}] * 40, target=0.9)
    assert found.exit is None
    assert found.reason == "the model gives all inputs the same answer; give inputs of all kinds"


def test_an_input_that_is_no_number_is_named(gratings: Bundle) -> None:
    given = pictures(60, 5)[0]
    given[7, 0, 0, 3, 3] = np.nan
    with pytest.raises(InputError, match="input 8 of 60 has NaN or infinite elements; leave it out"):
        learn_exit(gratings, [{"picture": each} for each in given], target=0.9)


def test_where_an_input_has_no_features_none_are_used(
    gratings: Bundle, learned: Exit, monkeypatch: pytest.MonkeyPatch
) -> None:
    analyses = iter([None] + [Analysis("tensor", 0.0, {"a": 1.0})] * 599)
    monkeypatch.setattr("midstream.calibrating.exits.analyze_inputs", lambda *_: next(analyses))
    samples = [{"picture": each} for each in pictures(600, 5)[0]]
    found = learn_exit(gratings, samples, target=0.95, cuts=[learned.cut])
    assert found.exit is not None, found
    assert found.exit.chance is None


def test_models_that_are_no_classifiers_are_told(made: Callable[[str], Bundle]) -> None:
    halves = made("digits_two_halves.onnx")
    sample = {spec.name: np.zeros([size or 1 for size in spec.shape], spec.dtype) for spec in halves.inputs}
    found = learn_exit(halves, [sample] * 40, target=0.9)
    assert found.exit is None
    assert found.reason is not None
    assert "the model has 3 outputs" in found.reason


def test_a_small_model_is_not_worth_an_exit(digits: Bundle) -> None:
    (spec,) = digits.inputs
    rng = np.random.default_rng(6)
    samples = [{spec.name: rng.random((1, 8, 8, 1)).astype(np.float32)} for _ in range(60)]
    found = learn_exit(digits, samples, target=0.9)
    assert found.exit is None
    assert found.reason is not None
    assert "no cut has an exit that saves the device time" in found.reason
    assert {each.cut for each in found.tried} == {cut.id for cut in digits.cuts}
    assert all(each.reason for each in found.tried)


def test_an_exit_is_kept_with_its_bundle_and_is_no_part_of_its_identity(
    copy: Path, gratings: Bundle, learned: Exit
) -> None:
    assert write_exit(Bundle.open(copy), learned) == copy / EXITS_FILE
    opened = Bundle.open(copy)
    assert opened.digest == gratings.digest
    assert opened.early_exit is not None
    assert exit_to_bytes(opened.early_exit) == exit_to_bytes(learned)
    assert Bundle.open(copy, calibrated=False).early_exit is None
    remove_exit(opened)
    remove_exit(opened)
    assert Bundle.open(copy).early_exit is None


def test_another_bundle_in_its_place_is_given_no_exit(copy: Path, learned: Exit) -> None:
    opened = Bundle.open(copy)
    for file in list(copy.iterdir()):
        content = file.read_bytes()
        file.unlink()
        file.write_bytes(content)
    for act in (lambda: write_exit(opened, learned), lambda: remove_exit(opened)):
        with pytest.raises(BundleError, match="was replaced or changed since the bundle was opened"):
            act()
    assert not (copy / EXITS_FILE).exists()


def test_without_an_exit_nothing_is_answered(gratings: Bundle) -> None:
    crossing, _ = gratings.run_head(gratings.cuts[0].id, {"picture": pictures(1, 5)[0][0]})
    assert gratings.run_exit(crossing) is None


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"bundle": "00" * 32}, "belongs to another bundle"),
        ({"cut": "c999"}, "has a cut 'c999', which the bundle has not"),
        ({"output": "other"}, "answers 'other', which is not the model's one output"),
        ({"poolings": {"other": Pooling(1)}}, "takes other tensors than cross"),
        ({"weights": np.zeros((3, CLASSES), np.float32)}, "has weights for 3 numbers"),
        ({"bias": np.zeros(4, np.float32), "weights": np.zeros((12, 4), np.float32)}, "has weights for|gives 4 scores"),
    ],
)
def test_an_exit_that_is_not_the_bundle_s_is_refused(
    copy: Path, learned: Exit, change: dict[str, Any], reason: str
) -> None:
    (copy / EXITS_FILE).write_bytes(exit_to_bytes(replace(learned, **change)))
    with pytest.raises(BundleError, match=reason) as caught:
        Bundle.open(copy)
    assert "run `midstream exits` again, or delete the file" in str(caught.value)


@pytest.mark.parametrize(
    "change",
    [
        {"format": 99}, {"scores": "votes"}, {"scores": "share"}, {"threshold": -1.0}, {"threshold": "1"},
        {"agreement": 1.5}, {"samples": -1}, {"whole_ms": 0.0}, {"head_ms": 1e12}, {"weights": "AAAA"},
        {"weights": "?"}, {"bias": ""}, {"poolings": {"t": {"axis": 2, "grid": 1}}},
        {"poolings": {"t": {"axis": 1, "grid": 0}}}, {"poolings": {"t": {"axis": True, "grid": 1}}},
        {"poolings": {"t": {"axis": 1, "grid": 10**9}}}, {"chance": {}},
        {"chance": {"intercept": 0, "weights": {"a": "b"}, "error": 0, "constant_error": 0}},
    ],
)  # fmt: skip
def test_a_damaged_file_is_refused(copy: Path, learned: Exit, change: dict[str, Any]) -> None:
    body = json.loads(exit_to_bytes(learned))["body"]
    (copy / EXITS_FILE).write_bytes(seal(body | change))
    with pytest.raises(BundleError, match=r"exits\.json"):
        Bundle.open(copy)


def test_any_changed_byte_is_seen(copy: Path, learned: Exit) -> None:
    content = bytearray(exit_to_bytes(learned))
    content[len(content) // 2] ^= 1
    (copy / EXITS_FILE).write_bytes(content)
    with pytest.raises(BundleError, match="is damaged"):
        Bundle.open(copy)


def test_where_no_exit_can_be_written_is_told_first(copy: Path) -> None:
    (copy / EXITS_FILE).mkdir()
    with pytest.raises(BundleError, match="it is a folder; delete it"):
        check_exit_target(Bundle.open(copy, calibrated=False))
