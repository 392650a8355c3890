"""The picture of a model as a file."""

from __future__ import annotations

import struct
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import networkx as nx
import numpy as np
import pytest

from midstream.bundle import Bundle
from midstream.drawing import canvas, picture
from midstream.drawing.scene import amount, duration, make_scene, share_of_scale
from midstream.errors import InputError, MissingExtraError
from midstream.manifest import Cut
from midstream.tensors import TensorSpec
from midstream_converters.convert import convert
from midstream_converters.opening import Options


def chain(count: int, op: str = "CONV_2D") -> tuple[nx.DiGraph, list[Cut]]:
    graph = nx.DiGraph()
    for index in range(count):
        graph.add_node(index, op=op, cpu_ms=0.01 * (index % 7 + 1), memory_bytes=1, energy_mj=1.0)
    graph.add_edges_from((a, a + 1, {"bytes": 1000 * (a + 1)}) for a in range(count - 1))
    tensor = TensorSpec("t", np.dtype(np.float32), (1,))
    return graph, [Cut(f"c{n}", (tensor,), 4 * n, tuple(range(n))) for n in range(1, count)]


def words(svg: bytes) -> list[str]:
    root = ElementTree.fromstring(svg)
    return [text for element in root.iter("{http://www.w3.org/2000/svg}text") if (text := "".join(element.itertext()))]


def png_size(png: bytes) -> tuple[int, int]:
    assert png.startswith(b"\x89PNG\r\n\x1a\n")
    width, height = struct.unpack(">II", png[16:24])
    return width, height


@pytest.fixture(scope="module")
def halves(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    target = tmp_path_factory.mktemp("drawn") / "halves"
    model = Path(__file__).resolve().parent.parent / "models" / "digits_two_halves.onnx"
    convert(model, target, Options(max_cuts=6))
    return Bundle.open(target)


def test_an_svg_names_every_layer_and_every_cut(halves: Bundle, tmp_path: Path) -> None:
    path = tmp_path / "halves.svg"
    graph = halves.resource_map
    picture.write_picture(path, graph, halves.cuts, name=halves.name, whole_ms=halves.costs.whole_ms)
    shown = words(path.read_bytes())
    assert "digits_two_halves" in shown
    assert len(halves.cuts) > 3
    for cut in halves.cuts:
        assert sum(text.startswith(f"{cut.id} · ") for text in shown) == 1
    for op in {data["op"] for _, data in graph.nodes(data=True)}:
        assert shown.count(op) == sum(data["op"] == op for _, data in graph.nodes(data=True))
    assert any(f"{len(graph)} layers · {len(halves.cuts)} cuts" in text for text in shown)
    assert any("logarithmic" in text for text in shown)


@pytest.mark.parametrize("count", [1, 60, pytest.param(800, marks=pytest.mark.long)])
def test_a_png_stays_within_bounds(count: int) -> None:
    graph, cuts = chain(count)
    width, height = png_size(picture.render(graph, cuts, "png", name="m", whole_ms=1.0))
    assert width <= 12_000 and height <= 12_000
    assert width * height <= 41_000_000
    assert width >= 900


def test_a_large_svg_has_every_layer() -> None:
    graph, cuts = chain(800)
    shown = words(picture.render(graph, cuts, "svg", name="m", whole_ms=1.0))
    assert shown.count("CONV_2D") == 800


def test_every_cut_of_many_is_named() -> None:
    graph, cuts = chain(300)
    shown = words(picture.render(graph, cuts, "svg", name="m", whole_ms=1.0))
    assert {text.split(" ")[0] for text in shown if text.startswith("c")} >= {cut.id for cut in cuts}


def test_the_same_model_gives_the_same_bytes() -> None:
    graph, cuts = chain(30)
    for kind in ("svg", "png"):
        first, second = (picture.render(graph, cuts, kind, name="m", whole_ms=1.0) for _ in range(2))
        assert first == second


def test_nothing_and_no_time_are_drawn_too() -> None:
    assert "0 layers" in " ".join(words(picture.render(nx.DiGraph(), [], "svg", name="m", whole_ms=0.0)))
    graph, cuts = chain(3)
    nx.set_node_attributes(graph, 0.0, "cpu_ms")
    assert words(picture.render(graph, cuts, "svg", name="m", whole_ms=0.0)).count("CONV_2D") == 3


def test_names_out_of_a_model_are_no_formulas_and_no_markup() -> None:
    graph, cuts = chain(2, op="$\\frac<&\x00\ud800é")
    shown = words(picture.render(graph, cuts, "svg", name="a$b$<m>", whole_ms=1.0))
    assert "a$b$<m>" in shown
    assert shown.count("$\\frac<&??é") == 2


def test_constants_and_the_critical_path_are_told() -> None:
    graph, cuts = chain(4)
    plain = words(picture.render(graph, cuts, "svg", name="m", whole_ms=1.0))
    graph.nodes[0].update(static=True, cpu_ms=0.0)
    graph.nodes[2]["critical"] = True
    shown = words(picture.render(graph, cuts, "svg", name="m", whole_ms=1.0))
    assert {"constant", "on the critical path", "0 CONV_2D"} <= set(shown)
    assert not {"constant", "on the critical path"} & set(plain)


def test_the_scale_of_colours_is_logarithmic() -> None:
    graph, _ = chain(3)
    for node, ms in enumerate((0.01, 0.1, 1.0)):
        graph.nodes[node]["cpu_ms"] = ms
    scene = make_scene(graph, [], lambda text, pixels: pixels * len(text))
    assert [share_of_scale(ms, scene) for ms in (0.0, 0.01, 0.1, 1.0)] == pytest.approx([0, 0, 0.5, 1])


def test_figures_in_three_digits() -> None:
    assert [amount(n) for n in (0, 999, 1000, 1536, 409_600, 2_500_000)] == [
        "0 B",
        "999 B",
        "1 kB",
        "1.54 kB",
        "410 kB",
        "2.5 MB",
    ]
    assert [duration(ms) for ms in (0, 1e-6, 0.00035, 0.203, 0.9999, 52.34, 1234.5)] == [
        "0 ms",
        "<0.01 µs",
        "0.35 µs",
        "203 µs",
        "1 ms",
        "52.3 ms",
        "1234 ms",
    ]


def test_nothing_half_written_is_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    graph, cuts = chain(2)
    path = tmp_path / "m.svg"
    path.write_text("before")

    def fail(*_: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", fail)
        with pytest.raises(InputError, match=r"m\.svg cannot be written: No space left"):
            picture.write_picture(path, graph, cuts, name="m", whole_ms=1.0)
    assert path.read_text() == "before"
    picture.write_picture(path, graph, cuts, name="m", whole_ms=1.0)
    assert words(path.read_bytes())
    assert list(tmp_path.iterdir()) == [path]


def test_without_matplotlib_the_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(canvas, "find_spec", lambda _: None)
    with pytest.raises(MissingExtraError, match=r"midstream\[draw\]"):
        canvas.check_target(tmp_path / "m.svg")


def test_matplotlib_is_imported_only_to_draw() -> None:
    code = "import sys, midstream.cli.commands, midstream.drawing.picture; sys.exit('matplotlib' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
