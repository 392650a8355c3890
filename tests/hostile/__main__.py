"""Fuzz the converter: ``python -m hostile [--seconds N] [--seed N] [--only NAME | --model FILE…] [--keep DIR]``.

Every damaged model is converted in a forked process. What ends in a bundle or a MidstreamError is fine; anything else
(another exception, a signal, more time than a bad file may take) is kept in DIR as a file, with the reason beside it.
So is what breaks the runtime in its trial or needs much memory, but without being counted: damage can make an honest
model a giant.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import resource
import signal
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import onnx

from hostile.damage import damaged_bytes
from hostile.models import ONNX, TFLITE
from hostile.mutate import edited_onnx, edited_tflite
from midstream.engines import Program, engine_for
from midstream.errors import BundleError, InputError, MidstreamError, ModelError, printable
from midstream_converters import opening
from midstream_converters.convert import convert
from midstream_converters.opening import Options
from midstream_converters.trial import Limits

SECONDS, MEMORY_BYTES = 60, 3 << 30


class ForkedTrial:
    """A `Trial` twenty times as fast: forked from this process, which no production code may do."""

    def __init__(self, engine: Any, program: Program, path: Path, limits: Limits) -> None:
        self._engine, self._program, self._path = engine, program, path

    def __enter__(self) -> ForkedTrial:
        if problem := self._try(None):
            raise ModelError(f"{self._path}: {printable(problem)}")
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def refusal(self, inputs: Mapping[str, Any]) -> str | None:
        problem = self._try(inputs)
        return problem and printable(problem)

    def _try(self, inputs: Mapping[str, Any] | None) -> str | None:
        reading, writing = os.pipe()
        if (child := os.fork()) == 0:
            limit(5, 768 << 20)
            try:
                session = engine_for(self._engine).load(self._program)
                if inputs is not None:
                    session.run(inputs)
            except (BundleError, InputError, ValueError) as error:
                os.write(writing, f"refused: {error}".encode()[:4096])
            except BaseException as error:  # noqa: BLE001  it is told
                os.write(writing, f"broken: {error!r}".encode()[:4096])
            os._exit(0)
        os.close(writing)
        with os.fdopen(reading, "rb") as pipe:
            problem = pipe.read().decode(errors="replace")
        _, status = os.waitpid(child, 0)
        return problem or (f"broken: signal {os.WTERMSIG(status)}" if os.WIFSIGNALED(status) else None)


def limit(seconds: int, memory_bytes: int) -> None:
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_DATA, (memory_bytes, memory_bytes))
    signal.alarm(seconds)


def outcome(content: bytes, name: str, forked: bool) -> tuple[str, str]:
    """What becomes of this model, in one word, and what is known about it."""
    reading, writing = os.pipe()
    started = time.monotonic()
    if (child := os.fork()) == 0:
        limit(SECONDS, MEMORY_BYTES)
        sys.stderr.flush()
        os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
        if forked:
            opening.Trial = ForkedTrial  # type: ignore[misc,assignment]
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / name
            path.write_bytes(content)
            try:
                convert(path, Path(folder) / "bundle", Options(max_cuts=3))
                answer = ("converted", "")
            except MidstreamError as error:
                text = str(error)
                broken = "broken: signal" in text or "breaks down" in text
                answer = ("broke the trial" if broken else "refused", text)
                if "\n" in text or len(text) > 2000 or not text.isprintable():
                    answer = ("unreadable", repr(text))
            except MemoryError:
                answer = ("large", "MemoryError")
            except BaseException:  # noqa: BLE001  it is told
                answer = ("raised", traceback.format_exc())
        os.write(writing, json.dumps(answer).encode())
        os._exit(0)
    os.close(writing)
    with os.fdopen(reading, "rb") as pipe:
        told = pipe.read()
    _, status, usage = os.wait4(child, 0)
    if os.WIFSIGNALED(status):
        return "died", f"signal {os.WTERMSIG(status)} after {time.monotonic() - started:.1f} s"
    word, text = json.loads(told)
    if (seconds := time.monotonic() - started) > SECONDS:
        return "slow", f"{seconds:.1f} s; {text}"
    if (peak := usage.ru_maxrss << 10) > MEMORY_BYTES * 2 // 3:
        return "large", f"{peak} bytes; {text}"
    return word, text


def mutant(content: bytes, name: str, rng: random.Random) -> bytes | None:
    if rng.random() < 0.2:
        return damaged_bytes(content, rng)
    return edited_tflite(content, rng) if "tflite" in name else edited_onnx(onnx.ModelProto.FromString(content), rng)


def models(files: Sequence[Path], only: str) -> dict[str, bytes]:
    """What is damaged: the files where some are given, else the small models whose names have ``only`` in them."""
    if files:
        return {path.name: path.read_bytes() for path in files}
    made = {name: maker() for name, maker in TFLITE.items()}
    made |= {name: maker().SerializeToString() for name, maker in ONNX.items()}
    return {name: content for name, content in made.items() if only in name}


def main() -> int:
    parser = argparse.ArgumentParser(prog="hostile", description="Fuzz the converter.")
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--seed", type=int, default=None, help="default: another one each time")
    parser.add_argument("--only", default="", help="part of the names of the models to damage")
    parser.add_argument("--model", type=Path, action="append", default=[], help="a file to damage instead")
    parser.add_argument("--keep", type=Path, default=Path(".cache/fuzz"), help="where findings go")
    parser.add_argument("--real-trial", action="store_true", help="use the trial of production, not a forked one")
    options = parser.parse_args()
    seed = random.SystemRandom().randrange(1 << 32) if options.seed is None else options.seed
    rng, sources = random.Random(seed), models(options.model, options.only)
    counts: Counter[str] = Counter()
    findings = 0
    end = time.monotonic() + options.seconds
    while time.monotonic() < end:
        name = rng.choice(list(sources))
        content = mutant(sources[name], name, rng)
        if content is None:
            continue
        word, text = outcome(content, "model.tflite" if "tflite" in name else "model.onnx", not options.real_trial)
        counts[word] += 1
        if word not in ("converted", "refused"):
            options.keep.mkdir(parents=True, exist_ok=True)
            path = options.keep / f"{word.replace(' ', '-')}-{seed}-{sum(counts.values())}-{name}"
            path.write_bytes(content)
            path.with_name(path.name + ".txt").write_text(text)
            findings += word not in ("broke the trial", "large")
            print(f"{word}: {path}: {text.strip().splitlines()[-1] if text.strip() else ''}"[:300], flush=True)
    print(f"seed {seed}: {dict(counts)}")
    return int(findings > 0)


if __name__ == "__main__":
    sys.exit(main())
