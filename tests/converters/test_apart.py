"""Work in a process of its own: answers, refusals, and what breaks there."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from midstream.errors import ModelError
from midstream_converters.apart import run_apart, serve

WORK = """
import os, signal, sys
from midstream.errors import ModelError
from midstream_converters.apart import refusing, serve

def work(folder, request):
    print("a lot on stdout")
    if request["do"] == "refuse":
        raise ModelError("x.keras is not wanted; give another")
    if request["do"] == "fail":
        raise KeyError("\\x1b[31m name\\nof a layer")
    if request["do"] == "lack":
        raise MemoryError
    with refusing(lambda error: ModelError(f"x.keras does not load: {error}")):
        if request["do"] == "refuse there":
            raise Exception("no such layer")
        if request["do"] == "refuse within":
            raise ModelError("x.keras has a layer too many")
        if request["do"] == "lack there":
            raise MemoryError
    if request["do"] == "crash":
        os.kill(os.getpid(), signal.SIGSEGV)
    if request["do"] == "end":
        sys.stderr.write("no memory\\n")
        os._exit(3)
    return {"folder": str(folder), "hashes": hash("a"), "home": os.environ["KERAS_HOME"]}

serve(work)
"""


@pytest.fixture
def work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder, and a module of work beside it."""
    (tmp_path / "modules").mkdir()
    (tmp_path / "modules" / "some_work.py").write_text(WORK)
    monkeypatch.syspath_prepend(str(tmp_path / "modules"))
    (tmp_path / "folder").mkdir()
    return tmp_path / "folder"


def ask(folder: Path, do: str) -> dict[str, object]:
    return run_apart("some_work", folder, {"do": do}, "x.keras: working", "do something else")


def test_it_answers_and_prints_nothing_here(work: Path, capfd: pytest.CaptureFixture[str]) -> None:
    first, second = ask(work, "answer"), ask(work, "answer")
    assert first == second
    assert (first["folder"], first["home"]) == (str(work), str(work))
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("do", "message"),
    [
        ("refuse", "x.keras is not wanted; give another"),
        ("fail", r"x.keras: working failed: KeyError: '\x1b[31m name\nof a layer'; do something else"),
        ("lack", "x.keras: working failed: it lacks memory; do something else"),
        ("refuse there", "x.keras does not load: no such layer"),
        ("refuse within", "x.keras has a layer too many"),
        ("lack there", "x.keras: working failed: it lacks memory; do something else"),
        ("crash", "x.keras: working broke: SIGSEGV; do something else"),
        ("end", "x.keras: working broke: a lot on stdout; no memory; do something else"),
    ],
)
def test_what_goes_wrong_there_is_one_error_here(work: Path, do: str, message: str) -> None:
    ask(work, "answer")
    with pytest.raises(ModelError) as raised:
        ask(work, do)
    # What a process had printed before it was broken off may not have left it.
    assert str(raised.value).replace("a lot on stdout; ", "") == message.replace("a lot on stdout; ", "")


def test_the_answer_is_there_as_a_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "request.json").write_text("{}")
    monkeypatch.setattr(sys, "argv", ["module", str(tmp_path)])
    serve(lambda _folder, request: {"asked": request})
    assert json.loads((tmp_path / "answer.json").read_text()) == {"asked": {}}
    assert sorted(file.name for file in tmp_path.iterdir()) == ["answer.json", "request.json"]
