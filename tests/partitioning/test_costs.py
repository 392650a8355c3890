from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from midstream.exits import Exit
from midstream.inputs import AudioInput
from midstream.ladder import Ladder, MeasuredRung, Place, ReplySize
from midstream.manifest import Costs, Graph, Layer, Manifest
from midstream.partitioning import (
    Candidate,
    MachineTimes,
    Rung,
    candidates,
    layers_from_profile,
    times_from_costs,
    times_from_profile,
    with_exit,
)
from midstream.profiles import EngineFamilies, Families, FamilyRates, ModelTimes, load_profile
from midstream.tensors import TensorSpec

RUNGS = (
    Rung("raw", True, 1.0, 0.0, 0.0),
    Rung("lossless", True, 0.75, 100.0, 10.0),
    Rung("jpeg", False, 0.1, 20.0, 5.0, pictures_only=True),
)


def found(manifest: Manifest, graph: Graph, costs: Costs) -> dict[tuple[str | None, str], Candidate]:
    times = times_from_costs(costs)
    options = candidates(manifest, graph, times, times_from_costs(costs, 0.5), rungs=RUNGS)
    return {(option.cut, option.codec): option for option in options}


def test_measured_times_scale(costs: Costs) -> None:
    assert times_from_costs(costs, 2.0) == MachineTimes(
        20.0, {"c0": 12.0, "c2": 14.0, "skip": 19.0}, {"c0": 8.0, "c2": 6.0, "skip": 1.0}
    )


def test_predicted_times_add_up_and_static_layers_are_free(manifest: Manifest, graph: Graph) -> None:
    profile = load_profile("pi4")
    times = times_from_profile(manifest, graph, profile)
    assert times.whole_ms == pytest.approx(profile.predict_ms(6400, 4, output_bytes=1600))
    assert times.head_ms["c2"] == pytest.approx(profile.predict_ms(4000, 2, output_bytes=1500))
    # The head of "skip" also holds the static layer.
    assert times.head_ms["skip"] == pytest.approx(profile.predict_ms(6400, 3, output_bytes=1560))
    for cut in manifest.cuts:
        assert times.head_ms[cut.id] + times.tail_ms[cut.id] == pytest.approx(times.whole_ms)
    assert times_from_profile(manifest, graph, profile, threads=1).whole_ms > times.whole_ms


def test_quantised_models_are_predicted_with_int8_rates(manifest: Manifest, graph: Graph) -> None:
    profile = load_profile("coral-dev")
    picture = TensorSpec("picture", np.dtype(np.uint8), (1, 3, 20, 20), scale=0.1, zero_point=3)
    quantised = replace(manifest, inputs=(picture, *manifest.inputs[1:]))
    assert times_from_profile(quantised, graph, profile).whole_ms == pytest.approx(
        profile.predict_ms(6400, 4, output_bytes=1600, int8=True)
    )


def test_layers_that_quantise_make_a_quantised_model_too(manifest: Manifest, graph: Graph) -> None:
    profile = load_profile("coral-dev")
    layers = tuple(replace(layer, op="QuantizeLinear") if layer.index == 2 else layer for layer in graph.layers)
    assert times_from_profile(manifest, replace(graph, layers=layers), profile).whole_ms == pytest.approx(
        profile.predict_ms(6400, 4, output_bytes=1600, int8=True)
    )


def test_the_state_of_a_model_stays_on_the_device(manifest: Manifest, graph: Graph, costs: Costs) -> None:
    options = found(replace(manifest, stateful=True), graph, costs)
    assert {cut for cut, _ in options} == {None, "c0", "c2", "skip"}
    assert [codec for cut, codec in options if cut is None] == ["none"]
    assert all(option.head for option in options.values())


def test_without_a_gateway_only_the_device_is_left(manifest: Manifest, graph: Graph, costs: Costs) -> None:
    (local,) = candidates(manifest, graph, times_from_costs(costs), None, rungs=RUNGS)
    assert local == Candidate(None, (0, 1, 2, 3, 4), (), 10.0)
    assert (local.codec, local.lossless, local.offloads) == ("none", True, False)


def test_every_option_is_there_and_local_comes_first(manifest: Manifest, graph: Graph, costs: Costs) -> None:
    assert list(found(manifest, graph, costs)) == [
        (None, "none"),
        (None, "raw"),
        (None, "lossless"),
        (None, "jpeg"),
        ("c0", "raw"),
        ("c0", "lossless"),
        ("c2", "raw"),
        ("c2", "lossless"),
        ("skip", "raw"),
        ("skip", "lossless"),
    ]


def test_the_whole_input_by_hand(manifest: Manifest, graph: Graph, costs: Costs) -> None:
    options = found(manifest, graph, costs)
    lossless = options[None, "lossless"]
    # 3 · 20 · 20 float32 of the picture; the fixed threshold stays here. The reply is 10 float32.
    assert (lossless.encode_ms, lossless.decode_ms) == pytest.approx((0.48, 0.048))
    assert replace(lossless, encode_ms=0.0, decode_ms=0.0) == Candidate(
        cut=None,
        head=(),
        tail=(0, 1, 2, 3, 4),
        device_ms=0.0,
        gateway_ms=5.0,
        payload_bytes=3600,
        reply_bytes=40,
        codec="lossless",
        lossless=True,
        agreement=1.0,
        reveals_input=True,
        fallback_ms=10.0,
    )
    jpeg = options[None, "jpeg"]
    # 1200 pixels of 8 bits.
    assert (jpeg.payload_bytes, jpeg.lossless, jpeg.agreement) == (120, False, None)
    assert (jpeg.encode_ms, jpeg.decode_ms) == pytest.approx((0.024, 0.006))


def test_a_cut_by_hand(manifest: Manifest, graph: Graph, costs: Costs) -> None:
    split = found(manifest, graph, costs)["c2", "lossless"]
    assert (split.encode_ms, split.decode_ms) == pytest.approx((0.05, 0.005))
    assert replace(split, encode_ms=0.0, decode_ms=0.0) == Candidate(
        cut="c2",
        head=(0, 2),
        tail=(1, 3, 4),
        device_ms=7.0,
        gateway_ms=1.5,
        payload_bytes=375,
        reply_bytes=40,
        codec="lossless",
        fallback_ms=3.0,
    )


def test_an_option_reveals_the_input_as_its_cut_does(manifest: Manifest, graph: Graph, costs: Costs) -> None:
    first, *others = manifest.cuts
    options = found(replace(manifest, cuts=(replace(first, reveals_input=None), *others)), graph, costs)
    told = {cut: options[cut, "raw"].reveals_input for cut in (None, "c0", "c2", "skip")}
    assert told == {None: True, "c0": None, "c2": False, "skip": True}
    assert options[None, "none"].reveals_input is False


def test_outputs_that_the_head_has_do_not_come_back(manifest: Manifest, graph: Graph, costs: Costs) -> None:
    *others, last = manifest.cuts
    changed = replace(manifest, cuts=(*others, replace(last, head_outputs=("scores",))))
    assert found(changed, graph, costs)["skip", "raw"].reply_bytes == 0


def test_dynamic_outputs_are_as_large_as_the_last_layer(manifest: Manifest, graph: Graph, costs: Costs) -> None:
    scores = TensorSpec("scores", np.dtype(np.float32), (None, 10))
    assert found(replace(manifest, outputs=(scores,)), graph, costs)["c2", "raw"].reply_bytes == 40


def test_pictures_are_the_only_inputs_sent_as_pictures(manifest: Manifest, graph: Graph, costs: Costs) -> None:
    sound = replace(manifest, semantics={"picture": AudioInput(16_000)})
    two = replace(manifest, fixed={})
    for changed in (sound, two):
        assert (None, "jpeg") not in found(changed, graph, costs)
    assert found(two, graph, costs)[None, "raw"].payload_bytes == 4804


def test_only_float32_is_expected_to_shrink(manifest: Manifest, graph: Graph, costs: Costs) -> None:
    first, *others = manifest.cuts
    int8 = replace(first, tensors=(TensorSpec("conv", np.dtype(np.int8), (1, 1000)),))
    options = found(replace(manifest, cuts=(int8, *others)), graph, costs)
    assert options["c0", "lossless"].payload_bytes == 1000


def test_cuts_that_were_never_timed_are_left_out(manifest: Manifest, graph: Graph, costs: Costs) -> None:
    partly = replace(costs, cuts={"c2": costs.cuts["c2"]})
    cuts = {option.cut for option in found(manifest, graph, partly).values()}
    assert cuts == {None, "c2"}


def test_families_of_the_engine_are_more_specific_than_the_board(manifest: Manifest, graph: Graph) -> None:
    rates = FamilyRates(conv_gmacs=0.004, conv_gbytes=0.001, depthwise_gmacs=1, dense_gmacs=0.0024, other_gbytes=0.0001)
    known = Families(layer_overhead_us=100, run_overhead_us=1000, float32=rates, int8=rates)
    profile = replace(load_profile("pi4"), families={"onnx": EngineFamilies(known, known)})
    times = times_from_profile(manifest, graph, profile)
    # By hand: Conv 4000 macs and 1000 bytes, MaxPool 500, Gemm 2400 macs and 60 bytes (it uses weights ten times, as a
    # convolution does), Softmax 40 bytes; four layers, one run.
    assert times.whole_ms == pytest.approx(1 + 1 + 5 + 0.6 + 0.06 + 0.4 + 0.4 + 1)
    assert times.head_ms["c2"] == pytest.approx(1 + 1 + 5 + 0.2 + 1)
    assert times.tail_ms["c2"] == pytest.approx(0.6 + 0.06 + 0.4 + 0.2 + 1)
    other = replace(profile, families={"litert": profile.families["onnx"]})
    assert times_from_profile(manifest, graph, other) == times_from_profile(manifest, graph, load_profile("pi4"))


def test_measured_times_of_the_bundle_are_most_specific(manifest: Manifest, graph: Graph) -> None:
    digest = bytes(range(32))
    measured = ModelTimes(digest.hex(), one_thread_ms=40.0, all_cores_ms=10.0, cuts_ms={"c0": (30.0, 12.0)})
    profile = replace(load_profile("pi4"), models={"hand": measured})
    one = times_from_profile(manifest, graph, profile, 1, digest)
    assert (one.whole_ms, one.head_ms["c0"], one.tail_ms["c0"]) == (40.0, 30.0, 12.0)
    # Other cuts are scaled so that the whole is what was measured.
    predicted = times_from_profile(manifest, graph, profile, 1)
    assert one.head_ms["c2"] == pytest.approx(predicted.head_ms["c2"] * 40.0 / predicted.whole_ms)
    assert one.head_ms["c2"] + one.tail_ms["c2"] == pytest.approx(40.0)
    every = times_from_profile(manifest, graph, profile, None, digest)
    assert (every.whole_ms, every.head_ms["c0"], every.tail_ms["c0"]) == pytest.approx((10.0, 7.5, 3.0))
    assert times_from_profile(manifest, graph, profile, 1, bytes(32)) == predicted


def test_layers_add_up_to_whichever_time_of_the_whole_is_known(manifest: Manifest, graph: Graph) -> None:
    digest = bytes(range(32))
    rates = FamilyRates(conv_gmacs=0.004, conv_gbytes=0.001, depthwise_gmacs=1, dense_gmacs=0.0024, other_gbytes=0.0001)
    known = Families(layer_overhead_us=100, run_overhead_us=1000, float32=rates, int8=rates)
    board = load_profile("pi4")
    families = replace(board, families={"onnx": EngineFamilies(known, known)})
    measured = replace(families, models={"hand": ModelTimes(digest.hex(), 40.0, 10.0, {})})
    for profile in (board, families, measured):
        layers_ms = layers_from_profile(manifest, graph, profile, 1, digest)
        assert sum(layers_ms) == pytest.approx(times_from_profile(manifest, graph, profile, 1, digest).whole_ms)
        assert [index for index, ms in enumerate(layers_ms) if ms == 0] == [1]
    # A run's own millisecond is shared out as the layers' times are: 5.1 of 8.46 ms for the pool.
    assert layers_from_profile(manifest, graph, families)[2] == pytest.approx(5.1 * 9.46 / 8.46)


def test_layers_that_a_runtime_does_for_nothing_share_what_a_run_costs(manifest: Manifest) -> None:
    views = tuple(Layer(index, "", "Identity", 0, 0, 64, static=index == 1, flops=0) for index in range(3))
    rates = FamilyRates(1.0, 1.0, 1.0, 1.0, 1.0)
    known = Families(10.0, 600.0, rates, rates)
    board = replace(load_profile("pi4"), families={"onnx": EngineFamilies(known, known)})
    assert layers_from_profile(manifest, Graph(views, ()), board) == pytest.approx((0.3, 0.0, 0.3))


def test_where_it_was_calibrated_the_measured_rungs_take_the_place_of_the_assumed_ones(
    manifest: Manifest, graph: Graph, costs: Costs
) -> None:
    measured = MeasuredRung("step1", False, "none", 0.97, 90.4, 0.2, encode_ms=3.0, decode_ms=2.0)
    raw = MeasuredRung("raw", True, "none", 1.0, 1000.0, 0.0, 0.0, 0.0)
    # Measured on a machine that is half as fast as the device, and a quarter as fast as the gateway.
    ladder = Ladder("", "", 20.0, "auto", 9, True, 0.9, (Place("c0", 1000.0, (raw, measured)),))
    options = candidates(
        manifest, graph, times_from_costs(costs), times_from_costs(costs, 0.5), ladder=ladder, rungs=RUNGS
    )
    assert [option.codec for option in options if option.cut == "c0"] == ["raw", "step1"]
    (found,) = (option for option in options if option.codec == "step1")
    assert (found.payload_bytes, found.lossless, found.agreement) == (91, False, 0.97)
    assert (found.encode_ms, found.decode_ms) == (1.5, 0.5)
    assert (found.head, found.device_ms, found.gateway_ms) == ((0,), 6.0, 2.0)
    # Elsewhere nothing was measured.
    assert [option.codec for option in options if option.cut == "c2"] == ["raw", "lossless"]
    assert [option.codec for option in options if option.cut is None and option.offloads] == ["raw", "lossless", "jpeg"]
    alone = candidates(manifest, graph, times_from_costs(costs), None, ladder=ladder)
    assert [option.cut for option in alone] == [None]


def test_an_early_exit_adds_what_can_follow_it(manifest: Manifest, graph: Graph, costs: Costs) -> None:
    device, gateway = times_from_costs(costs, 2.0), times_from_costs(costs)
    early = Exit(
        bundle="",
        cut="c0",
        output="scores",
        scores="shares",
        poolings={},
        weights=np.zeros((1, 10), np.float32),
        bias=np.zeros(10, np.float32),
        threshold=1.0,
        target=0.99,
        answered_share=0.7,
        agreement=0.98,
        samples=300,
        held_out=100,
        head_ms=6.0,
        exit_ms=0.5,
        whole_ms=10.0,
    )
    plain = candidates(manifest, graph, device, gateway)
    found = with_exit(plain, early, device)
    assert found[: len(plain)] == plain
    added = found[len(plain) :]
    assert {(option.exit, option.exit_share, option.lossless) for option in added} == {("c0", 0.7, False)}
    # Behind it: the rest here, the whole input in every rung, and the exit's own cut in every rung.
    assert [(option.cut, option.codec) for option in added] == [
        (option.cut, option.codec) for option in plain if not option.offloads or option.cut in (None, "c0")
    ]
    # The exit takes 0.5 ms where the whole model takes 10, and it takes 20 here; the tail takes 4, and 8 here.
    assert {option.device_ms for option in added} == {12.0 + 1.0}
    assert (added[0].rest_ms, added[0].agreement) == (8.0, 0.98)
    assert all(option.rest_ms == 0 for option in added[1:])
    assert [option.agreement for option in added if option.codec == "jpeg75"] == [None]
    # An exit that was asked for 0.9 and met nothing harder than that assures no more.
    assert with_exit(plain, replace(early, target=0.9), device)[len(plain)].agreement == 0.9


def test_mistakes_of_an_early_exit_and_of_a_rung_behind_it_add_up(
    manifest: Manifest, graph: Graph, costs: Costs
) -> None:
    times = times_from_costs(costs)
    lossy = replace(candidates(manifest, graph, times, times)[1], lossless=False, agreement=0.97)
    early = Exit("", "c0", "", "shares", {}, np.zeros((1, 2)), np.zeros(2), 1, 0.99, 0.6, 1, 1, 1, 1, 1, 1)  # type: ignore[arg-type]
    assert with_exit([lossy], early, times)[1].agreement == pytest.approx(0.97 - 0.6 * 0.01)
    hopeless = replace(lossy, agreement=0.001)
    assert with_exit([hopeless], replace(early, target=0.5), times)[1].agreement == 0


def test_who_sends_the_whole_input_behind_an_exit_needs_the_memory_for_its_head(
    manifest: Manifest, graph: Graph, costs: Costs
) -> None:
    times = times_from_costs(costs)
    plain = candidates(manifest, graph, times, times, memory={None: 900, **{cut.id: 500 for cut in manifest.cuts}})
    early = Exit("", "c0", "", "shares", {}, np.zeros((1, 2)), np.zeros(2), 1, 0.99, 0.6, 1, 1, 1, 1, 1, 1)  # type: ignore[arg-type]
    taken = {(each.exit, each.cut, each.offloads): each.device_bytes for each in with_exit(plain, early, times)}
    assert taken[None, None, True] == 0
    assert taken["c0", None, True] == taken["c0", "c0", True] == 500
    assert taken["c0", None, False] == 900


def test_an_exit_at_a_cut_without_times_is_left_out(manifest: Manifest, graph: Graph, costs: Costs) -> None:
    device = MachineTimes(10.0, {}, {})
    plain = candidates(manifest, graph, device, times_from_costs(costs))
    early = Exit("", "c0", "scores", "shares", {}, np.zeros((1, 2)), np.zeros(2), 1, 1, 1, 1, 1, 1, 1, 1, 1)  # type: ignore[arg-type]
    assert with_exit(plain, early, device) == plain


def test_answers_of_no_fixed_length_are_as_long_as_calibration_saw(
    manifest: Manifest, graph: Graph, costs: Costs
) -> None:
    ladder = Ladder("", "", 20.0, "auto", 9, True, 0.9, (), ReplySize(77.2, 0.5))
    times = times_from_costs(costs)
    fixed = candidates(manifest, graph, times, times, ladder)
    assert {option.reply_bytes for option in fixed if option.offloads} == {40}
    loose = replace(manifest, outputs=(TensorSpec("scores", np.dtype(np.float32), (1, None)),))
    dynamic = candidates(loose, graph, times, times, ladder)
    assert {option.reply_bytes for option in dynamic if option.offloads} == {78}
    assert dynamic[0].reply_bytes == 0
