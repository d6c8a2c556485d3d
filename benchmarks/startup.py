"""How long does a start take, and what does it hold, against a page of Gradio that only says hello? Both in turn.

import: of gradio there, of llamaforge_ui here, in a fresh interpreter. First byte: from starting the process until a
page is answered; CPU: what the process computed until then, which other programs disturb less. Usable: from opening
the page in a Chromium that runs already until the box takes text. RSS is what a task manager shows, USS what the end
of the process would free, both with the page open and no model.

python benchmarks/startup.py [--pairs 9] [--plot startup.png] [--quick]
"""

from __future__ import annotations

import argparse
import os
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import astuple, dataclass, fields
from functools import partial
from pathlib import Path

import psutil
from playwright.sync_api import Browser, sync_playwright
from report import in_turns, machine, ratio, save_plot, table

ROOT = Path(__file__).resolve().parent.parent
MIB = 2**20
HELLO = """\
import sys
import gradio as gr

with gr.Blocks() as page:
    name, greeting = gr.Textbox(elem_id="name"), gr.Textbox()
    name.submit(lambda name: f"Hello {name}", name, greeting)
page.launch(server_port=int(sys.argv[1]), quiet=True)
"""
QUIET = {**os.environ, "GRADIO_ANALYTICS_ENABLED": "False"}  # neither side asks another host


@dataclass(frozen=True, slots=True)
class Side:
    """One of the two programs: the module it imports, how it is started, and the box that a person writes in."""

    module: str
    command: Callable[[int, Path], list[str]]
    box: str


@dataclass(frozen=True, slots=True)
class Start:
    """What one start took and held."""

    import_seconds: float
    first_byte: float
    cpu_seconds: float
    usable: float
    rss: float
    uss: float


NAMES = ("import, s", "first byte, s", "CPU until then, s", "usable, s", "RSS, MiB", "USS, MiB")


def hello(port: int, folder: Path) -> list[str]:
    script = folder / "hello.py"
    script.write_text(HELLO, "utf-8")
    return [sys.executable, str(script), str(port)]


def ours(port: int, folder: Path) -> list[str]:
    return [sys.executable, "app.py", "--port", str(port), "--config", str(folder), "--data", str(folder)]


SIDES = {
    "hello-world": Side("gradio", hello, "#name textarea"),
    "LlamaForge": Side("llamaforge_ui", ours, "#chat-input textarea"),
}


def measure(side: Side, browser: Browser) -> Start:
    import_seconds = seconds_of_import(side.module)
    address = f"http://127.0.0.1:{(port := free_port())}"
    with tempfile.TemporaryDirectory() as folder:
        command = side.command(port, Path(folder))
        begun = time.perf_counter()
        with running(command) as program:
            while not answers(address):
                time.sleep(0.005)
            first_byte, cpu = time.perf_counter() - begun, program.cpu_times()
            usable = seconds_until_usable(browser, address, side.box)
            memory = program.memory_full_info()
    return Start(import_seconds, first_byte, cpu.user + cpu.system, usable, memory.rss / MIB, memory.uss / MIB)


@contextmanager
def running(command: Sequence[str]) -> Iterator[psutil.Popen]:
    program = psutil.Popen(command, cwd=ROOT, env=QUIET, stdout=subprocess.DEVNULL)
    try:
        yield program
    finally:
        program.terminate()
        program.wait()


def seconds_of_import(module: str) -> float:
    begun = time.perf_counter()
    subprocess.run([sys.executable, "-c", f"import {module}"], cwd=ROOT, env=QUIET, check=True)
    return time.perf_counter() - begun


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def answers(address: str) -> bool:
    try:
        with urllib.request.urlopen(address, timeout=30):
            return True
    except urllib.error.URLError:
        return False


def seconds_until_usable(browser: Browser, address: str, box: str) -> float:
    context = browser.new_context()  # that has nothing of the page in its cache
    page = context.new_page()
    begun = time.perf_counter()
    page.goto(address)
    page.fill(box, "x")
    usable = time.perf_counter() - begun
    context.close()
    return usable


def report(starts: Mapping[str, Sequence[Start]], plot: Path | None) -> None:
    columns = {name: list(zip(*map(astuple, side), strict=True)) for name, side in starts.items()}
    theirs, own = columns["hello-world"], columns["LlamaForge"]
    medians = {
        name: {"hello-world": statistics.median(theirs[place]), "LlamaForge": statistics.median(own[place])}
        for place, name in enumerate(NAMES[: len(fields(Start))])
    }
    rows = [
        (name, *median.values(), ratio(own[place], theirs[place]))
        for place, (name, median) in enumerate(medians.items())
    ]
    pairs = len(starts["LlamaForge"])
    table(f"A start, medians over {pairs} pairs", ("", "hello", "LlamaForge", "ratio"), rows)
    if plot:
        seconds = {name.removesuffix(", s"): median for name, median in medians.items() if name.endswith(", s")}
        save_plot(plot, f"A start, medians over {pairs} pairs", "seconds", seconds)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=9)
    parser.add_argument("--plot", type=Path, metavar="FILE", help="draw them too (needs matplotlib)")
    parser.add_argument("--quick", action="store_true", help="one pair, to see that it runs")
    flags = parser.parse_args()
    print(machine("gradio", "playwright"))
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=shutil.which("chromium") or shutil.which("google-chrome"), args=["--no-sandbox"]
        )
        sides = {name: partial(measure, side, browser) for name, side in SIDES.items()}
        starts = in_turns(sides, 1 if flags.quick else flags.pairs)
        browser.close()
    report(starts, flags.plot)


if __name__ == "__main__":
    main()
