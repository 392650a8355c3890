"""``midstream inspect``: what is in a bundle."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Annotated, Any

import typer

from midstream.cli.exits import exit_json
from midstream.cli.output import JsonOption, print_json, print_table, screen

if TYPE_CHECKING:
    import networkx as nx

    from midstream.bundle import Bundle
    from midstream.ladder import SizeModel
    from midstream.manifest import Cut
    from midstream.tensors import TensorSpec


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command()(inspect)


def inspect(
    bundle: Annotated[Path, typer.Argument(help="A bundle's folder.")],
    graph: Annotated[
        Path | None, typer.Option("--graph", help="Draw layers, costs and cuts into this .svg or .png file.")
    ] = None,
    device: Annotated[
        str | None,
        typer.Option(
            help="Layers as on this board, a profile's name or .toml file; default: as measured at conversion."
        ),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Show a bundle's inputs, outputs, resource map, cuts and sizes."""
    from midstream.bundle import Bundle
    from midstream.profiles import load_profile

    if graph is not None:
        from midstream.drawing import canvas, picture

        canvas.check_target(graph)
    opened = Bundle.open(bundle)
    board = None if device is None else load_profile(device)
    resources = opened.resource_map if board is None else opened.resource_map_on(board)
    whole_ms = sum(ms for _, ms in resources.nodes(data="cpu_ms"))
    if graph is not None:
        name = opened.name if board is None else f"{opened.name} on {board.title}"
        picture.write_picture(graph, resources, opened.cuts, name=name, whole_ms=whole_ms)
    if as_json:
        print_json(describe(opened, resources, opened.costs.machine if board is None else board.title))
        return
    manifest = opened.manifest
    screen.print(opened.name, style="bold", end="")
    screen.print(
        f" ({manifest.model_format}, engine {manifest.engine}): {opened.bundle_bytes:,} bytes for a model of "
        f"{manifest.model_bytes:,}; whole model {opened.costs.whole_ms:.2f} ms on {opened.costs.machine}"
    )
    rows = [
        ["input", str(spec), "bound at conversion" if spec.name in manifest.fixed else ""] for spec in opened.inputs
    ]
    rows += [["output", str(spec), ""] for spec in opened.outputs]
    print_table("inputs and outputs", ["", "tensor", "note"], rows)
    told = manifest.candidates_json()
    screen.print(
        f"{told['total']} candidate cuts: {told['optimal']} the best somewhere, {told['single_tensor']} of one tensor, "
        f"{told['dominated']} dominated; {told['kept']} kept, {told['rejected']} rejected, {told['untried']} untried"
    )
    print_table(
        f"cuts ({told['rejected']} candidates rejected); times as measured on {opened.costs.machine}",
        ["id", "layers in head", "tensors", "payload bytes", "head ms", "tail ms", "best in", "fits"],
        [
            [
                cut.id,
                str(len(cut.nodes)),
                str(len(cut.tensors)),
                f"{cut.payload_bytes:,}",
                f"{opened.costs.cuts[cut.id].head_ms:.2f}",
                f"{opened.costs.cuts[cut.id].tail_ms:.2f}",
                f"{cut.share:.1%}" if cut.share else "",
                ", ".join(cut.accelerators),
            ]
            for cut in opened.cuts
        ],
    )
    screen.print(revealing_words(opened.cuts))
    _show_predictors(opened)
    where = "" if board is None else f" on {board.title}, {whole_ms:.1f} ms in all"
    peak = resources.graph["peak_bytes"]
    critical = [data["cpu_ms"] for _, data in resources.nodes(data=True) if data["critical"]]
    screen.print(f"critical path (*): {len(critical)} layers, {sum(critical):.2f} ms")
    layers = sorted(resources.nodes(data=True), key=lambda item: -item[1]["cpu_ms"])[:10]
    print_table(
        f"the ten most expensive layers{where}, sizes in kB (peak memory of the whole model: {peak / 1e3:,.0f} kB)",
        ["layer", "operator", "cpu ms", "mJ", "MFLOP", "weights", "writes", "live"],
        [
            [
                f"{index}{'*' if data['critical'] else ''}",
                data["op"],
                f"{data['cpu_ms']:.3f}",
                f"{data['energy_mj']:.2f}",
                f"{data['flops'] / 1e6:.2f}",
                f"{data['weight_bytes'] / 1e3:,.0f}",
                f"{data['activation_bytes'] / 1e3:,.0f}",
                f"{data['live_bytes'] / 1e3:,.0f}",
            ]
            for index, data in layers
        ],
    )


def describe(bundle: Bundle, graph: nx.DiGraph, machine: str) -> dict[str, Any]:
    """The same as JSON, with this resource map, whose times are of ``machine``; all others are of the conversion's."""
    return {
        "name": bundle.name,
        "format": bundle.manifest.model_format,
        "digest": bundle.digest.hex(),
        "inputs": [_spec(spec) for spec in bundle.inputs],
        "outputs": [_spec(spec) for spec in bundle.outputs],
        "fixed": bundle.manifest.fixed,
        "stateful": bundle.manifest.stateful,
        "sample_shapes": {name: list(shape) for name, shape in bundle.manifest.sample_shapes.items()},
        "cuts": cuts_json(bundle),
        "candidates": bundle.manifest.candidates_json(),
        "rejected": [
            {"id": cut.id, "reason": cut.reason, "max_abs_error": cut.max_abs_error} for cut in bundle.manifest.rejected
        ],
        "middles": [list(pair) for pair in bundle.manifest.middles()],
        "peak_bytes": graph.graph["peak_bytes"],
        "resource_map": {
            "machine": machine,
            "whole_ms": sum(ms for _, ms in graph.nodes(data="cpu_ms")),
            "nodes": [{"index": index, **data} for index, data in graph.nodes(data=True)],
            "edges": [{"source": a, "target": b, **data} for a, b, data in graph.edges(data=True)],
        },
        "predictors": predictors_json(bundle),
        "exit": None if bundle.early_exit is None else exit_json(bundle.early_exit),
        "machine": bundle.costs.machine,
        "whole_ms": bundle.costs.whole_ms,
        "bundle_bytes": bundle.bundle_bytes,
        "model_bytes": bundle.manifest.model_bytes,
    }


def cuts_json(bundle: Bundle) -> list[dict[str, Any]]:
    """The kept cuts."""
    return [
        {
            "id": cut.id,
            "nodes": list(cut.nodes),
            "payload_bytes": cut.payload_bytes,
            "tensors": [_spec(spec) for spec in cut.tensors],
            "head_ms": bundle.costs.cuts[cut.id].head_ms,
            "tail_ms": bundle.costs.cuts[cut.id].tail_ms,
            "share": cut.share,
            "accelerators": list(cut.accelerators),
            "reveals_input": cut.reveals_input,
        }
        for cut in bundle.cuts
    ]


def predictors_json(bundle: Bundle) -> dict[str, Any]:
    """What tells, before the work, how large a payload and a reply will be and whether the early exit answers.

    ``by`` is "features" where these err less than the mean on inputs they were not fitted to, else "mean"; ``error`` is
    the mean absolute share of sizes, and the Brier score of the exit.
    """
    told: dict[str, Any] = {}
    if bundle.ladder is not None:
        told["payload_bytes"] = [
            {"cut": place.cut, "codec": rung.codec, **_size_error(rung.size, rung.spread)}
            for place in bundle.ladder.places
            for rung in place.rungs
        ]
        reply = bundle.ladder.reply
        told["reply_bytes"] = None if reply is None else _size_error(reply.size, reply.spread)
    if bundle.early_exit is not None:
        chance, share = bundle.early_exit.chance, bundle.early_exit.answered_share
        told["exit"] = {
            "by": "mean" if chance is None else "features",
            "error": share * (1 - share) if chance is None else chance.error,
        }
    return told


def _size_error(size: SizeModel | None, spread: float) -> dict[str, Any]:
    return {"by": "mean" if size is None else "features", "error": spread if size is None else size.error}


def revealing_words(cuts: Iterable[Cut]) -> str:
    """Which cuts ``keep_input_local`` leaves out."""
    told = {cut.id: cut.reveals_input for cut in cuts}
    if None in told.values():
        return "this bundle does not say at which cuts the input is revealed; convert the model again"
    places = ", ".join(cut for cut, reveals in told.items() if reveals)
    return f"an input, or what is linear in one, crosses at: {places or 'no cut'}"


def _show_predictors(bundle: Bundle) -> None:
    """One line for each kind of thing that is predicted."""
    told = predictors_json(bundle)
    if "payload_bytes" in told:
        parts = []
        for by in ("features", "mean"):
            errors = [each["error"] for each in told["payload_bytes"] if each["by"] == by]
            if errors:
                parts.append(f"{len(errors)} by {by} (± {median(errors):.0%})")
        screen.print(
            f"sizes of payloads are known beforehand: {', '.join(parts)}, of {len(told['payload_bytes'])} rungs"
        )
    if told.get("exit"):
        early = bundle.early_exit
        assert early is not None
        screen.print(
            f"early exit after {early.cut}: answers {early.answered_share:.0%}, {early.agreement:.1%} of them as the "
            f"whole model does; whether it will is known by {told['exit']['by']}"
        )


def _spec(spec: TensorSpec) -> dict[str, Any]:
    return {"name": spec.name, "dtype": spec.dtype.name, "shape": list(spec.shape)}
