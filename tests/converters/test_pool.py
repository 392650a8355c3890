"""Where proofs are made: in this process, or in others that see the same prover."""

from __future__ import annotations

import os
import signal
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import cast

import pytest

from midstream_converters.convert import convert
from midstream_converters.opening import Options
from midstream_converters.pool import _undisturbed, proving
from midstream_converters.proving import Prover

MODELS = Path(__file__).parents[1] / "models"


class Told:
    """Stands where a prover does: what is submitted is handed it, and nothing else."""

    def __init__(self, what: str) -> None:
        self.what = what


def told(prover: Prover) -> tuple[str, int]:
    return cast("Told", prover).what, os.getpid()


def refused(prover: Prover) -> None:
    raise ValueError(cast("Told", prover).what)


def broken(prover: Prover) -> None:
    del prover
    os.kill(os.getpid(), signal.SIGKILL)


def prover() -> Prover:
    return cast("Prover", Told("here"))


def test_little_work_stays_in_this_process() -> None:
    with proving(prover(), 0, 0.1) as pool:
        assert pool.submit(told).result() == ("here", os.getpid())
        assert pool.workers == 1


def test_so_does_work_on_weights_of_which_there_is_room_for_one_copy() -> None:
    with proving(prover(), 1 << 30, 1000.0) as pool:
        assert pool.submit(told).result() == ("here", os.getpid())


@pytest.mark.skipif((os.cpu_count() or 1) < 2, reason="needs two processors")
def test_much_work_is_shared_out_and_a_broken_worker_is_an_error() -> None:
    with proving(prover(), 0, 1000.0) as pool:
        assert pool.workers > 1
        answers = [pool.submit(told) for _ in range(4)]
        assert all(answer.result()[0] == "here" and answer.result()[1] != os.getpid() for answer in answers)
        with pytest.raises(ValueError, match="here"):
            pool.submit(refused).result()
        with pytest.raises(BrokenProcessPool):
            pool.submit(broken).result()


@pytest.mark.skipif((os.cpu_count() or 1) < 2, reason="needs two processors")
@pytest.mark.parametrize("model", ["digits_float32.onnx", "digits_float32.tflite"])
def test_processes_make_the_same_bundle(model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    here = convert(MODELS / model, tmp_path / "here", Options(max_cuts=None))
    monkeypatch.setattr("midstream_converters.pool._WORTH_S", 0.0)
    apart = convert(MODELS / model, tmp_path / "apart", Options(max_cuts=None))
    assert here == apart
    for file in ("manifest.json", "slices.tar.xz", "weights.bin"):
        assert (tmp_path / "here" / file).read_bytes() == (tmp_path / "apart" / file).read_bytes()


def test_ctrl_c_waits_until_the_workers_are_there() -> None:
    done = []
    with pytest.raises(KeyboardInterrupt), _undisturbed():
        os.kill(os.getpid(), signal.SIGINT)
        done.append("the rest")
    assert done
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


@pytest.mark.skipif(not hasattr(signal, "pthread_sigmask"), reason="needs signal masks")
def test_ctrl_c_does_not_reach_a_worker(capfd: pytest.CaptureFixture[str]) -> None:
    if (os.cpu_count() or 1) < 2:
        pytest.skip("needs two processors")
    with proving(prover(), 0, 1000.0) as pool:
        worker = pool.submit(told).result()[1]
        os.kill(worker, signal.SIGINT)
        assert {pool.submit(told).result()[0] for _ in range(8)} == {"here"}
    assert capfd.readouterr().err == ""
