"""Which predictors a gateway has, and the network that takes another's place."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from midstream.allocation.intervals import Interval
from midstream.allocation.usage import Partition
from midstream.errors import InputError
from midstream.forecaster import CARD, MODEL_FILES, SHIPPED
from midstream.gateway.forecasting import Forecasting, checked_folder

STAGE = Partition("a" * 64, "c1")


def names(forecasting: Forecasting) -> set[str]:
    forecasting.chooser.observe({STAGE: Interval(0.0, 1.0, 10, 10, cpu_ms=50.0, service_ms=5.0)})
    return set(forecasting.chooser.middles()[STAGE]["wait_ms"]) - {"weighted", "stacked"}


def own(folder: Path) -> Path:
    folder.mkdir()
    for name in (CARD, *MODEL_FILES.values()):
        shutil.copy(SHIPPED / name, folder / name)
    return folder


def test_all_simple_or_none() -> None:
    everything, simple = Forecasting("all", 2, None, None), Forecasting("simple", 2, None, None)
    assert names(everything) - names(simple) == {"rnn"}
    assert {"last_value", "ewma", "holt", "steady_state", "transient", "queue_report"} <= names(simple)
    assert names(Forecasting("last", 2, None, None)) == {"last_value"}


def test_another_network_takes_over_without_a_gap(tmp_path: Path) -> None:
    forecasting = Forecasting("all", 2, None, None)
    for second in range(5):
        forecasting.chooser.observe({STAGE: Interval(float(second), 1.0, 10, 10, cpu_ms=50.0, service_ms=5.0)})
    forecasting._take(own(tmp_path / "mine"))
    forecasting.chooser.observe({STAGE: Interval(5.0, 1.0, 10, 10, cpu_ms=50.0, service_ms=5.0)})
    assert forecasting.chooser.middles()[STAGE]["arrivals"]["rnn"] > 0.0


def test_a_folder_without_a_network_is_no_mistake_and_a_damaged_one_is_told(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    assert "rnn" in names(Forecasting("all", 1, tmp_path / "later", None))
    assert caplog.text == ""
    broken = own(tmp_path / "broken")
    (broken / CARD).write_text("{")
    assert "rnn" in names(Forecasting("all", 1, broken, None))
    assert f"{broken / CARD} is no forecast model's card" in caplog.text


def test_what_is_no_folder_of_a_model_and_never_will_be_is_refused(tmp_path: Path) -> None:
    file = own(tmp_path / "mine") / MODEL_FILES["onnx"]
    with pytest.raises(InputError, match="no folder"):
        checked_folder(file, tmp_path / "usage.db")
    with pytest.raises(InputError, match=r"there is no forecast model in .*later"):
        checked_folder(tmp_path / "later", None)
    assert checked_folder(tmp_path / "later", tmp_path / "usage.db") == tmp_path / "later"
    assert checked_folder(tmp_path / "mine", None) == tmp_path / "mine"


def test_without_a_history_nothing_is_trained(tmp_path: Path) -> None:
    with_folder = Forecasting("all", 1, tmp_path / "model", None)
    with_folder.start()
    with_folder.close()
    assert not (tmp_path / "model").exists()
