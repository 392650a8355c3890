from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest

from midstream.manifest import EngineName
from midstream.measuring.programs import DTYPES, NAMES, Programs, small_programs
from midstream.measuring.rates import work_of
from midstream.profiles import DType


@pytest.fixture(scope="module")
def programs() -> Iterator[Programs]:
    with small_programs() as opened:
        yield opened


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("engine", ["litert", "onnx"])
@pytest.mark.parametrize("name", NAMES)
def test_every_program_runs_and_gives_numbers_far_from_the_edges(
    programs: Programs, name: str, engine: EngineName, dtype: DType
) -> None:
    program = programs.read(name, engine, dtype)
    session = program.load(threads=2)
    (output,) = session.run(program.inputs).values()
    session.close()
    assert output.dtype == program.inputs["x"].dtype
    mean = float(np.mean(output.astype(np.float64)))
    # Neither denormal nor infinite, nor all at an end of the quantised range.
    assert 0.05 < mean < (1.0 if dtype == "int8" else 2.0) * (128 if output.dtype == np.int8 else 1)


@pytest.mark.parametrize("engine", ["litert", "onnx"])
def test_each_program_is_of_one_family(programs: Programs, engine: EngineName) -> None:
    for dtype in DTYPES:
        works = {name: work_of(programs.read(name, engine, dtype).graph, dtype == "int8") for name in NAMES}
        for name, does in works.items():
            amounts = {
                "conv": does.conv_macs, "depthwise": does.depthwise_macs, "dense": does.dense_macs,
                "elementwise": does.other_bytes, "small": does.other_bytes, "single": does.other_bytes,
            }  # fmt: skip
            mine = amounts[name.partition("-")[0]]
            assert mine > 0, name
            # Where a quantised program becomes bytes and floats again, other layers have something to write.
            products = [does.conv_macs, does.depthwise_macs, does.dense_macs]
            assert all(amount in (0, mine) for amount in products), (name, dtype)
            assert does.other_bytes in (0, mine) or dtype == "int8", name
        deep, wide = works["conv-deep"], works["conv-wide"]
        assert deep.conv_macs / deep.conv_bytes > 5 * wide.conv_macs / wide.conv_bytes
        assert works["small"].layers >= 10 * works["single"].layers
