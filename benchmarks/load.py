"""What do a load, a swap and an unload take, and what do they leave behind? Every side in turn, medians.

The limits are the engines by themselves: in this process, which has imported them already, and in a new one, which
has to be started first, as LlamaForge's worker has. LlamaForge loads in this process as a library, and in its worker
as the page does. Load: until the model is loaded; first answer: from then to its first token; swap: from one loaded
model to the first token of another. Memory is the RSS of this process and its children, beyond what it was before.

python benchmarks/load.py [--rounds 9] [--plot load.png] [--quick]
"""

from __future__ import annotations

import argparse
import contextlib
import gc
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import astuple, dataclass
from functools import partial
from pathlib import Path
from typing import IO

import alone
import psutil
from alone import MESSAGES
from models import FOLDER, Q8_0, ROOT, Shape, random_model, tiny_model
from report import in_turns, machine, ratio, save_plot, table
from startup import MIB
from tiny_gguf import COUNTING_ANSWER
from tiny_hf import write_tiny_hf

from llamaforge import LlamaForge, Message

QUESTION = [Message(line["role"], line["content"]) for line in MESSAGES]
SETTINGS = {"llama.cpp": {"n_threads": 1, "n_ctx": 2048}, "huggingface": {}}
COLUMNS = ("side", "load, s", "first answer, s", "swap, s", "loaded, MiB", "left, MiB", "load ratio", "swap ratio")
LIMIT = "engine, new process"


@dataclass(frozen=True, slots=True)
class Cycle:
    """One load, swap and unload: seconds, and MiB beyond what was held before."""

    load: float
    first_answer: float
    swap: float
    loaded: float
    left: float


class Clock:
    """Seconds between one look and the next, and the memory beyond what was held at its beginning."""

    def __init__(self) -> None:
        gc.collect()
        self._before = _held()
        self._last = time.perf_counter()

    def seconds(self) -> float:
        last, self._last = self._last, time.perf_counter()
        return self._last - last

    def memory(self) -> float:
        """Return MiB; looking takes no time."""
        held = _held() - self._before
        self._last = time.perf_counter()
        return held / MIB


def _held() -> int:
    this = psutil.Process()
    return sum(process.memory_info().rss for process in [this, *this.children()])


def engine_here(engine: str, paths: Sequence[Path]) -> Cycle:
    clock = Clock()
    answer = alone.load(engine, str(paths[0]))
    load = clock.seconds()
    answer()
    first_answer, loaded = clock.seconds(), clock.memory()
    del answer
    gc.collect()
    answer = alone.load(engine, str(paths[1]))
    answer()
    swap = clock.seconds()
    del answer
    gc.collect()
    return Cycle(load, first_answer, swap, loaded, clock.memory())


def engine_in_new_process(engine: str, paths: Sequence[Path]) -> Cycle:
    clock = Clock()
    with _alone(engine, paths[0]) as said:
        said.readline()
        load = clock.seconds()
        said.readline()
        first_answer, loaded = clock.seconds(), clock.memory()
    with _alone(engine, paths[1]) as said:
        said.readline()
        said.readline()
        swap = clock.seconds()
    return Cycle(load, first_answer, swap, loaded, clock.memory())


@contextlib.contextmanager
def _alone(engine: str, path: Path) -> Iterator[IO[bytes]]:
    command = [sys.executable, str(ROOT / "benchmarks" / "alone.py"), engine, str(path)]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    ) as process:
        assert process.stdin and process.stdout
        yield process.stdout
        process.stdin.close()
        process.wait()


def llamaforge(engine: str, paths: Sequence[Path], *, isolate: bool) -> Cycle:
    with tempfile.TemporaryDirectory() as folder:
        forge = LlamaForge(folder, isolate=isolate)
        for name, path in zip(("one", "other"), paths, strict=True):
            forge.add_model(name, str(path), engine, SETTINGS[engine])
        clock = Clock()
        forge.load_model("one")
        load = clock.seconds()
        _answer(forge)
        first_answer, loaded = clock.seconds(), clock.memory()
        forge.load_model("other")
        _answer(forge)
        swap = clock.seconds()
        forge.unload_model()
        gc.collect()
        return Cycle(load, first_answer, swap, loaded, clock.memory())


def _answer(forge: LlamaForge) -> None:
    forge.chat(QUESTION, {"max_tokens": 1, "temperature": 0.0})


SIDES: Mapping[str, Callable[[str, Sequence[Path]], Cycle]] = {
    "engine, this process": engine_here,
    LIMIT: engine_in_new_process,
    "LlamaForge, this process": partial(llamaforge, isolate=False),
    "LlamaForge, worker": partial(llamaforge, isolate=True),
}


def models(quick: bool) -> dict[str, tuple[str, list[Path]]]:
    """Write what is loaded: for each name an engine and two models of the same size."""
    file = tiny_model() if quick else random_model(Shape(), Q8_0)
    other = file.with_stem(f"{file.stem}-other")
    if not other.exists():
        shutil.copy(file, other)
    folders = [write_tiny_hf(FOLDER / name, COUNTING_ANSWER) for name in ("tiny-hf", "tiny-hf-other")]
    return {f"llama.cpp, {file.stem}": ("llama.cpp", [file, other]), "transformers, tiny": ("huggingface", folders)}


def report(title: str, cycles: Mapping[str, Sequence[Cycle]]) -> dict[str, dict[str, float]]:
    """Print a table; return the medians of load and swap of each side, for a plot."""
    limit = cycles[LIMIT]
    rows, medians = [], {}
    for side, seen in cycles.items():
        columns = [statistics.median(column) for column in zip(*map(astuple, seen), strict=True)]
        load = ratio([cycle.load for cycle in seen], [cycle.load for cycle in limit])
        swap = ratio([cycle.swap for cycle in seen], [cycle.swap for cycle in limit])
        rows.append((side, *columns, load, swap))
        medians[side] = {"load": columns[0], "swap": columns[2]}
    table(f"{title}, medians of {len(limit)} (ratios to {LIMIT})", COLUMNS, rows)
    return medians


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--plot", type=Path, metavar="FILE", help="draw them too (needs matplotlib)")
    parser.add_argument("--quick", action="store_true", help="one round with small models, to see that it runs")
    flags = parser.parse_args()
    groups: dict[str, dict[str, float]] = {}
    print(machine("llama-cpp-python", "transformers", "torch"))
    for title, (engine, paths) in models(flags.quick).items():
        for side in SIDES.values():
            side(engine, paths)  # the first imports the engine, and reads the files from the disk
        sides = {name: partial(side, engine, paths) for name, side in SIDES.items()}
        for side, medians in report(title, in_turns(sides, 1 if flags.quick else flags.rounds)).items():
            for what, seconds in medians.items():
                groups.setdefault(f"{what}\n{title}", {})[side] = seconds
    if flags.plot:
        save_plot(flags.plot, "Loading and swapping models", "seconds", groups)


if __name__ == "__main__":
    main()
