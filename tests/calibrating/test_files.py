"""Keeping a ladder with its bundle, and what a bundle makes of one that is not its own."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import midstream.calibrating.files as files
from midstream.bundle import Bundle
from midstream.calibrating import calibrate, check_ladder_target, read_inputs, write_ladder
from midstream.communication.codecs import codes
from midstream.errors import BundleError, CodecError
from midstream.ladder import LADDER_FILE, Ladder
from midstream.ladder_file import ladder_to_bytes
from midstream.seal import seal

DIGITS = Path(__file__).resolve().parent.parent / "models" / "digits_calibration.npz"


@pytest.fixture(scope="module")
def ladder(digits: Bundle) -> Ladder:
    return calibrate(digits, read_inputs(digits, DIGITS)).ladder


@pytest.fixture
def copy(digits: Bundle, tmp_path: Path) -> Path:
    return Path(shutil.copytree(digits.path, tmp_path / "copy"))


def test_a_ladder_is_part_of_the_bundle_and_not_of_its_identity(copy: Path, digits: Bundle, ladder: Ladder) -> None:
    before = sorted(file.name for file in copy.iterdir())
    assert write_ladder(Bundle.open(copy), ladder) == copy / LADDER_FILE
    opened = Bundle.open(copy)
    assert sorted(file.name for file in copy.iterdir()) == sorted([*before, LADDER_FILE])
    assert opened.digest == digits.digest
    assert opened.ladder is not None
    assert ladder_to_bytes(opened.ladder) == ladder_to_bytes(ladder)
    assert opened.bases_id == (ladder.bases_id if any(place.bases for place in ladder.places) else None)
    assert digits.ladder is None
    assert Bundle.open(copy, calibrated=False).ladder is None


def test_calibrating_again_takes_the_place_of_what_was_there(copy: Path, ladder: Ladder) -> None:
    write_ladder(Bundle.open(copy), ladder)
    write_ladder(Bundle.open(copy), replace(ladder, places=()))
    opened = Bundle.open(copy)
    assert opened.ladder is not None
    assert opened.ladder.places == ()
    assert not list(copy.glob(".*"))


def test_every_rung_of_a_calibrated_bundle_carries_what_crosses(copy: Path, ladder: Ladder) -> None:
    write_ladder(Bundle.open(copy), ladder)
    opened = Bundle.open(copy)
    (sample, *_) = read_inputs(opened, DIGITS)
    whole = opened.run(sample)
    for place in ladder.places[1:]:
        assert place.cut is not None
        for rung in place.rungs:
            found = opened.run_split(sample, place.cut, codec=rung.codec)
            if rung.lossless:
                assert all(np.array_equal(found[name], value) for name, value in whole.items())
            else:
                assert all(found[name].shape == value.shape for name, value in whole.items())


def test_a_basis_that_the_other_end_lacks_is_refused(copy: Path, digits: Bundle) -> None:
    samples, cut, codec = read_inputs(digits, DIGITS), digits.cuts[0].id, "klt0.25"
    measured = calibrate(digits, samples, codecs=[codec], cuts=[cut], min_agreement=0.0)
    write_ladder(Bundle.open(copy), measured.ladder)
    opened = Bundle.open(copy)
    assert opened.bases_id == measured.ladder.bases_id
    encoded = opened.encode(cut, codec, opened.run_head(cut, samples[0])[0])
    assert codes(codec, encoded)
    opened.decode(cut, codec, encoded, 1 << 20)
    with pytest.raises(CodecError, match="in a basis that this bundle does not hold"):
        digits.decode(cut, codec, encoded, 1 << 20)


def resealed(copy: Path, ladder: Ladder, change: Callable[[Any], object]) -> None:
    body = json.loads(ladder_to_bytes(ladder))["body"]
    change(body)
    (copy / LADDER_FILE).write_bytes(seal(body))


@pytest.mark.parametrize(
    ("change", "what"),
    [
        (lambda body: body.update(bundle="ab" * 32), "belongs to another bundle; calibrate this one, or delete"),
        (lambda body: body["places"][1].update(cut="c999"), "has a cut 'c999', which the bundle has not"),
        (lambda body: body["places"][1].update(rungs=[]), "lacks the codec raw at cut"),
        (lambda body: body["places"][0].update(rungs=[]), "lacks the codec raw for the whole input"),
        (lambda body: body["places"][0]["rungs"][-1].update(codec="gzip9"), "codec 'gzip9' is unknown"),
        (lambda body: body["places"][0]["rungs"][-1].update(codec="step3", lossless=True), "'step3' loses nothing"),
        (lambda body: body["places"][0]["rungs"][0].update(lossless=False), "codec 'raw' is lossy"),
        (lambda body: body["places"][0]["rungs"][0].update(payload_bytes=-1), "does not read"),
        (lambda body: body.update(format=1), "has bundle format version 1; this midstream reads version 2"),
    ],
)
def test_a_ladder_that_cannot_be_the_bundle_s_is_refused(
    copy: Path, ladder: Ladder, change: Callable[[Any], object], what: str
) -> None:
    resealed(copy, ladder, change)
    with pytest.raises(BundleError, match=what):
        Bundle.open(copy)
    # What is wrong with it is no reason not to make another.
    again = Bundle.open(copy, calibrated=False)
    check_ladder_target(again)
    write_ladder(again, ladder)
    assert Bundle.open(copy).ladder is not None


@pytest.mark.timeout(10)
@pytest.mark.parametrize("kind", ["link", "dangling", "folder", "garbage", "empty"])
def test_what_is_no_regular_ladder_is_refused_and_replaced(
    copy: Path, ladder: Ladder, tmp_path: Path, kind: str
) -> None:
    path, elsewhere = copy / LADDER_FILE, tmp_path / "elsewhere"
    if kind == "link":
        elsewhere.write_bytes(ladder_to_bytes(ladder))
    if kind in ("link", "dangling"):
        path.symlink_to(elsewhere)
    elif kind == "folder":
        path.mkdir()
    else:
        path.write_bytes(b"" if kind == "empty" else b"\x00" * 100)
    with pytest.raises(BundleError, match=r"codecs\.json"):
        Bundle.open(copy)
    opened = Bundle.open(copy, calibrated=False)
    if kind == "folder":
        for attempt in (lambda: check_ladder_target(opened), lambda: write_ladder(opened, ladder)):
            with pytest.raises(BundleError, match=r"cannot write .*codecs\.json"):
                attempt()
        return
    write_ladder(opened, ladder)
    assert not path.is_symlink()
    assert Bundle.open(copy).ladder is not None
    # What a link pointed to is not touched.
    assert elsewhere.exists() == (kind == "link")


def test_a_ladder_without_end_is_not_read(copy: Path) -> None:
    with (copy / LADDER_FILE).open("wb") as file:
        file.truncate(1 << 40)
    with pytest.raises(BundleError, match=r"is larger than .*calibrate the bundle again, or delete the file"):
        Bundle.open(copy)


def test_a_ladder_too_large_to_be_read_is_not_written(
    copy: Path, ladder: Ladder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(files, "MAX_LADDER_BYTES", 100)
    with pytest.raises(BundleError, match=r"takes .* bytes, and 100 are allowed; try fewer cuts"):
        write_ladder(Bundle.open(copy), ladder)
    assert not (copy / LADDER_FILE).exists()


def test_where_nothing_can_be_written_that_is_said_first(copy: Path, ladder: Ladder) -> None:
    opened = Bundle.open(copy)
    shutil.rmtree(copy)
    with pytest.raises(BundleError, match=r"cannot write .*codecs\.json: No such file.*a copy of the bundle"):
        check_ladder_target(opened)
    with pytest.raises(BundleError, match=r"cannot read .*: No such file or directory; open the bundle again"):
        write_ladder(opened, ladder)
