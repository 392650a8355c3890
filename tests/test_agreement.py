"""What counts as the same answer, for the codec ladder."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

from midstream.agreement import ValueRange, box_f1, checked, find_metric, fitting, is_scores, value_range
from midstream.errors import InputError
from midstream.tensors import Tensor, Tensors

SHARES = np.array([[[0.9, 0.1, 0.0], [0.1, 0.2, 0.7]]], np.float32)
BOXES = np.array([[0.0, 0.0, 10.0, 10.0], [20.0, 20.0, 30.0, 40.0]])


def array(values: object, dtype: str = "float32") -> Tensor:
    return np.asarray(values, dtype)


def judged(text: str, want: object, got: object, dtype: str = "float32") -> float:
    """The metric of one output ``y``, known from ``want`` alone."""
    wanted: Tensors = {"y": array(want, dtype)}
    return find_metric(text, [wanted])(wanted, {"y": array(got, dtype)})


@pytest.mark.parametrize(
    ("answers", "kind"),
    [
        ([array([[1, 2]], "int64")], "exact"),
        ([array([[True, False]], "bool")], "exact"),
        ([array([[3.0, -1.0]])], "argmax"),
        ([SHARES], "text"),
        ([SHARES[0]], "argmax"),
        ([np.full((1, 16, 16, 1), 0.5, np.float32)], "mask"),
        ([np.full((1, 16, 16, 1), 1.5, np.float32)], "max_error"),
        ([array(3.5)], "max_error"),
        ([array([[np.nan, 1.0], [0.5, 0.5]])], "max_error"),
    ],
)
def test_what_fits_an_output(answers: list[Tensor], kind: str) -> None:
    assert fitting(answers) == kind


def test_what_fits_must_fit_all_inputs_whatever_their_shapes() -> None:
    longer = np.concatenate([SHARES, SHARES], 1)
    assert fitting([SHARES, longer]) == "text"
    assert fitting([SHARES, longer * 5]) == "max_error"
    # One vector of one input, two of the other: a place is compared in each.
    assert fitting([array([[0.5, 0.5]]), SHARES]) == "argmax"
    assert fitting([np.zeros((0, 4), np.float32), array([[7.0, 8.0, 9.0, 9.0], [1.0, 2.0, 3.0, 9.0]])]) == "max_error"
    assert fitting([np.zeros((0, 4), np.float32)]) == "exact"


def test_one_vector_is_scores_whatever_is_in_it_and_several_only_as_shares() -> None:
    assert is_scores(array([[9.0, -3.0]]))
    assert is_scores(SHARES)
    assert not is_scores(SHARES - 0.2)
    assert not is_scores(array([1.0, 0.0]))
    assert not is_scores(array([[1, 0]], "int32"))


def test_argmax_counts_the_vectors_that_keep_their_place() -> None:
    assert judged("argmax", SHARES, [[[0.6, 0.4, 0.0], [0.8, 0.1, 0.1]]]) == 0.5
    assert judged("argmax", [[5.0, 9.0]], [[0.0, 0.1]]) == 1.0


def test_text_leaves_out_repeats_and_blanks() -> None:
    def line(*places: int) -> Tensor:
        return np.eye(4, dtype=np.float32)[[list(places)]]

    assert judged("text", line(0, 1, 1, 0, 2), line(0, 0, 1, 0, 2)) == 1.0
    assert judged("text", line(0, 1, 0, 1, 0), line(0, 1, 1, 1, 0)) == 0.0
    # The last place is the blank where it is more common than the first.
    assert judged("text", line(3, 3, 1, 0), line(3, 1, 3, 0)) == 1.0
    assert judged("text:blank=0", line(3, 3, 1, 0), line(3, 1, 3, 0)) == 0.0


def test_a_mask_is_judged_by_its_elements_above_the_score() -> None:
    want = [[0.9, 0.6, 0.1, 0.1]]
    assert judged("mask", want, [[0.8, 0.2, 0.2, 0.2]]) == pytest.approx(2 / 3)
    assert judged("mask:score=0.05", want, [[0.8, 0.2, 0.2, 0.2]]) == 1.0
    assert judged("mask", [[0.1]], [[0.2]]) == 1.0


def test_regions_are_boxes_around_what_is_above_the_score() -> None:
    want = np.zeros((1, 40, 40, 1))
    want[0, 5:15, 5:15], want[0, 25:35, 25:35] = 1.0, 1.0
    one, moved = want.copy(), np.roll(want, 3, axis=1)
    one[0, 25:35] = 0.0
    assert judged("regions", want, one) == pytest.approx(2 / 3)
    assert judged("regions", want, moved) == 1.0
    assert judged("regions:iou=0.9", want, moved) == 0.0
    # Channels first are as good: the two largest axes are the picture.
    assert judged("regions", np.moveaxis(want, 3, 1), np.moveaxis(one, 3, 1)) == pytest.approx(2 / 3)


def test_other_values_may_move_by_a_share_of_their_range_over_all_inputs() -> None:
    references: list[Tensors] = [{"y": array([0.0, 1.0])}, {"y": array([0.0, 100.0])}]
    metric = find_metric("max_error", references)
    assert metric(references[0], {"y": array([4.9, 1.0])}) == 1.0
    assert metric(references[0], {"y": array([5.1, 1.0])}) == 0.0
    assert find_metric("max_error:limit=0.2", references)(references[0], {"y": array([19.0, 1.0])}) == 1.0


def test_what_is_no_number_agrees_with_itself_alone() -> None:
    want = [1.0, np.nan, np.inf, -np.inf]
    assert judged("max_error", want, want) == 1.0
    assert judged("exact", want, want) == 1.0
    assert judged("max_error", want, [1.0, 0.0, np.inf, -np.inf]) == 0.0
    assert judged("max_error", [1.0, 2.0], [1.0, np.nan]) == 0.0
    assert judged("cosine", [1.0, 2.0], [1.0, np.nan]) == 0.0


def test_cosine_is_zero_where_it_is_negative_and_one_for_zeros() -> None:
    assert judged("cosine", [3.0, 0.0], [1.0, 0.0]) == 1.0
    assert judged("cosine", [1.0, 0.0], [-1.0, 0.0]) == 0.0
    assert judged("cosine", [0.0, 0.0], [0.0, 0.0]) == 1.0
    assert judged("cosine", [0.0, 0.0], [1.0, 0.0]) == 0.0


@pytest.mark.parametrize("kind", ["auto", "argmax", "max_error", "cosine", "exact", "mask"])
def test_another_shape_or_dtype_is_another_answer_and_none_at_all_is_the_same(kind: str) -> None:
    assert judged(kind, SHARES, SHARES[:, :1]) == 0.0
    wanted: Tensors = {"y": SHARES}
    assert find_metric(kind, [wanted])(wanted, {"y": SHARES.astype(np.float64)}) == 0.0
    nothing = np.zeros((0, 3))
    assert judged(kind, nothing, nothing) == 1.0


def test_the_worst_output_counts_unless_one_is_named() -> None:
    want: Tensors = {"a": array([[1.0, 0.0]]), "b:0": array([[1, 2]], "int32")}
    got: Tensors = {"a": array([[1.0, 0.0]]), "b:0": array([[1, 3]], "int32")}
    assert find_metric("auto", [want])(want, got) == 0.0
    assert find_metric("auto@a", [want])(want, got) == 1.0
    assert find_metric("max_error@b:0:limit=1", [want])(want, got) == 1.0


def test_boxes_match_one_to_one_by_their_overlap() -> None:
    assert box_f1(BOXES, BOXES[::-1]) == 1.0
    assert box_f1(BOXES, BOXES[:1]) == pytest.approx(2 / 3)
    assert box_f1(BOXES[:1], np.concatenate([BOXES[:1]] * 3)) == pytest.approx(0.5)
    assert box_f1(BOXES, BOXES[:0]) == 0.0
    assert box_f1(BOXES[:0], BOXES[:0]) == 1.0


def test_the_best_overlap_is_matched_first() -> None:
    want = np.array([[0.0, 0.0, 10.0, 10.0], [0.0, 4.0, 10.0, 14.0]])
    # The first overlaps both, the second only what the first fits better.
    got = np.array([[0.0, 1.0, 10.0, 11.0], [0.0, -3.0, 10.0, 7.0]])
    assert box_f1(want, got) == 0.5
    assert box_f1(want, got[:1]) == box_f1(want[:1], got) == pytest.approx(2 / 3)


def test_boxes_without_area_or_number_match_themselves() -> None:
    odd = np.array([[3.0, 3.0, 3.0, 3.0], [np.nan, 0.0, 1.0, 1.0], [5.0, 5.0, 1.0, 1.0]])
    assert box_f1(odd, odd) == 1.0
    assert box_f1(np.concatenate([odd, BOXES]), np.concatenate([odd, BOXES])) == 1.0


def test_of_very_many_boxes_the_first_thousand_count() -> None:
    many = np.zeros((1500, 4))
    many[:, 0] = np.arange(1500) * 20
    many[:, 2:] = many[:, :2] + 10
    assert box_f1(many, many) == 1.0


@pytest.mark.parametrize("corners", ["xyxy", "yxyx", "xywh", "cxcywh"])
def test_boxes_are_read_in_their_format_and_those_above_the_score_count(corners: str) -> None:
    written = {
        "xyxy": BOXES,
        "yxyx": BOXES[:, [1, 0, 3, 2]],
        "xywh": np.concatenate([BOXES[:, :2], BOXES[:, 2:] - BOXES[:, :2]], 1),
        "cxcywh": np.concatenate([(BOXES[:, :2] + BOXES[:, 2:]) / 2, BOXES[:, 2:] - BOXES[:, :2]], 1),
    }[corners]
    want: Tensors = {"boxes": array(written)[np.newaxis], "scores": array([[0.9, 0.8]])}
    got = want | {"scores": array([[0.9, 0.4]])}
    metric = find_metric(f"boxes@boxes:scores=scores,format={corners}", [want])
    assert metric(want, want) == 1.0
    assert metric(want, got) == pytest.approx(2 / 3)
    assert find_metric(f"boxes:scores=scores,format={corners},score=0.3", [want])(want, got) == 1.0


def test_no_boxes_for_one_input_are_no_reason_to_refuse() -> None:
    some: Tensors = {"boxes": array(BOXES), "scores": array([0.9, 0.9])}
    none: Tensors = {"boxes": array(BOXES[:0]), "scores": array([])}
    metric = find_metric("boxes@boxes:scores=scores", [none, some])
    assert metric(none, none) == 1.0
    assert metric(none, some) == 0.0


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("nosuch", "is unknown; there are argmax, text"),
        ("", "is unknown"),
        (":", "is unknown"),
        ("argmax@nosuch", "has no output 'nosuch'; it has y, z"),
        ("argmax@", "has no output ''"),
        ("boxes@", "has no output ''"),
        ("boxes", "needs an output of boxes"),
        ("boxes@z", "needs an output of boxes"),
        ("text:blank=x", "blank is 'x', needed a place"),
        ("text:blank=1.5", "blank is '1.5', needed a place"),
        ("text:blank=-1", "blank is '-1', needed a place"),
        ("regions:iou=-2", "iou is '-2', needed a share of 0 to 1"),
        ("max_error:limit=nan", "limit is 'nan', needed 0 or more"),
        ("max_error:limit=-1", "limit is '-1', needed 0 or more"),
        ("mask:score=inf", "score is 'inf', needed a number"),
        ("mask:", None),
        ("mask:score", "options are KEY=VALUE"),
        ("mask:iou=1", "mask has no option 'iou'; it has score"),
        ("text@z", "text needs an output of 2 axes or more, not of shape"),
        ("regions@z", "regions needs an output of 2 axes"),
    ],
)
def test_a_metric_that_cannot_be_says_why(text: str, what: str | None) -> None:
    references: list[Tensors] = [{"y": SHARES, "z": array([1.0])}]
    if what is None:
        assert find_metric(text, references)(references[0], references[0]) == 1.0
        return
    with pytest.raises(InputError, match=what):
        find_metric(text, references)


@pytest.mark.parametrize(
    ("options", "what"),
    [
        ("scores=s", "has no output 's'; it has boxes, scores"),
        ("scores=scores", "'scores' has no scores for the 2 boxes"),
        ("format=xxyy", "format 'xxyy' is not one of"),
        ("colour=red", "boxes has no option 'colour'"),
        ("iou=2", "iou is '2', needed a share of 0 to 1"),
    ],
)
def test_boxes_that_cannot_be_read_say_why(options: str, what: str) -> None:
    want: Tensors = {"boxes": array(BOXES), "scores": array([0.9, 0.8, 0.7])}
    with pytest.raises(InputError, match=what):
        find_metric(f"boxes:{options}", [want])


def test_without_answers_there_is_no_metric() -> None:
    with pytest.raises(InputError, match="needs at least one answer of the whole model"):
        find_metric("auto", [])


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = (
        "half = lambda want, got: 0.5\nraises = lambda want, got: want['nosuch']\n"
        "nan = lambda want, got: float('nan')\ntwo = lambda want, got: 2.0\ntext = lambda want, got: 'good'\n"
        "nothing = lambda want, got: None\nnumber = 3\n"
    )
    (tmp_path / "my_metrics.py").write_text(source)
    # Named like a kind of metric, but with a longer path to it.
    (tmp_path / "mask").mkdir()
    (tmp_path / "mask" / "mine.py").write_text(source)
    (tmp_path / "broken.py").write_text("1/0\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    for name in ("my_metrics", "mask", "mask.mine", "broken"):
        monkeypatch.delitem(sys.modules, name, raising=False)


@pytest.mark.usefixtures("own")
@pytest.mark.parametrize("module", ["my_metrics", "mask.mine"])
def test_a_function_of_ones_own(module: str) -> None:
    assert find_metric(f"{module}:half", [{"y": SHARES}])({"y": SHARES}, {"y": SHARES}) == 0.5


@pytest.mark.usefixtures("own")
@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("my_metrics:nosuch", "has no function 'nosuch'"),
        ("my_metrics:number", "has no function 'number'"),
        ("nosuch_module:f", "cannot import 'nosuch_module'.*PYTHONPATH"),
        ("broken:f", "cannot import 'broken': ZeroDivisionError"),
        ("my_metrics:half:x", "is unknown"),
        ("mask:half", "options are KEY=VALUE"),
    ],
)
def test_a_function_that_cannot_be_had_says_why(text: str, what: str) -> None:
    with pytest.raises(InputError, match=what):
        find_metric(text, [{"y": SHARES}])


@pytest.mark.usefixtures("own")
@pytest.mark.parametrize(
    ("name", "what"),
    [
        ("raises", "failed: KeyError"),
        ("nan", "gave nan, needed a number from 0 to 1"),
        ("two", "gave 2.0"),
        ("text", "gave 'good'"),
        ("nothing", "gave None"),
    ],
)
def test_what_is_no_agreement_is_the_function_s_mistake(name: str, what: str) -> None:
    metric = find_metric(f"my_metrics:{name}", [{"y": SHARES}])
    with pytest.raises(InputError, match=f"my_metrics:{name}' {what}"):
        metric({"y": SHARES}, {"y": SHARES})


def test_numbers_of_numpy_are_numbers() -> None:
    assert checked(lambda want, got: np.float32(0.25), "mine")({}, {}) == 0.25


def test_a_range_leaves_out_what_is_not_finite() -> None:
    assert value_range([array([np.nan, 2.0]), array([5.0, np.inf])]) == 3.0
    assert value_range([array([-4.0])]) == 4.0
    assert value_range([array([0.0])]) == value_range([array([np.nan])]) == ValueRange().size == 1.0
