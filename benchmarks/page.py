"""How soon is an answer seen, in Chromium? LlamaForge beside the chat that a user writes in an afternoon, in turns.

The rivals are gr.ChatInterface on llama-cpp-python and the same page on the openai client against llama-cpp-python's
server. Each side has the same tiny model, free or paced, which says the same Markdown; the engine's own times are
noted in its process, the page's at each of its frames. A turn is a question and its answer.

python benchmarks/page.py [--rounds 9] [--rivals 3] [--turns 0 20 100] [--characters 500 8000] [--paces 0 400 50]
    [--plot FILE] [--quick]
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import cycle, product
from pathlib import Path
from typing import Any, NamedTuple

from playwright.sync_api import Browser, Page, TimeoutError, expect, sync_playwright

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

from afternoon import N_CTX, history  # noqa: E402
from paced import Pace, Times  # noqa: E402
from report import machine, save_plot, table  # noqa: E402
from startup import answers, free_port  # noqa: E402
from tiny_gguf import answer_pieces, write_tiny_gguf  # noqa: E402

from llamaforge_ui.history import ChatRecord, History, Record, new_id  # noqa: E402

TEXT = """## A llama answers

Every answer begins with a **word**, and goes on with others until its end is reached, as all answers must.

- the first item of a short list
- another, which has `code` inside

Some lines of a program follow, as they so often do in a chat with a machine:

```
for number in range(10):
    print(number, "squared is", number**2)
```

> A quotation closes this part, before everything that was said here is said once more from its beginning.

"""
MESSAGE = "Please tell me something about llamas."
SIDES = {
    "llamaforge": "LlamaForge",
    "near": "gr.ChatInterface, llama-cpp-python",
    "client": "gr.ChatInterface, openai",
}
PATIENCE = 150.0  # seconds; what is slower is told as that
SLOW = 15.0  # a case that takes a rival longer is measured once
PROBE = """([selector, letters]) => {
    const now = () => (performance.timeOrigin + performance.now()) / 1000;
    const seen = window.seen = {asked: 0, first: 0, last: 0, begun: 0};
    const count = (text) => (text.match(/[a-z]/gi) ?? []).length;
    const committed = () => [...document.querySelectorAll(selector)];
    const before = committed().length;
    document.addEventListener("keydown", ({key}) => { if (key === "Enter") seen.asked ||= now(); }, {capture: true});
    const shown = () => {
        const live = document.querySelector("#live-turn .md")?.textContent;
        return live?.trim() ? live : committed().length > before ? committed().at(-1).textContent : "";
    };
    let known = 0;
    const look = () => {  // letters are counted only where they may be all: to look costs the page nothing
        const text = shown();
        if (!seen.first && text.trim()) { seen.first = now(); seen.begun = count(text); }
        if (text.length >= letters && text.length !== known && count(text) >= letters) seen.last = now();
        else requestAnimationFrame(look);
        known = text.length;
    };
    requestAnimationFrame(look);
}"""
SAID = "[data-testid=bot]:not([aria-label$='component of type html'], [aria-label='About this message'])"


class Case(NamedTuple):
    """What is asked: after so many turns, an answer of so many characters, at so many tokens a second (0: free)."""

    turns: int
    characters: int
    speed: int


@dataclass(frozen=True, slots=True)
class Answer:
    """How a model's answer of a length is made up."""

    tokens: int
    letters: int

    @classmethod
    def of(cls, characters: int) -> Answer:
        text, tokens = b"", 0
        for piece in cycle(answer_pieces(TEXT)):
            text, tokens = text + piece, tokens + 1
            if len(text) >= characters:
                return cls(tokens, len(re.findall(rb"[A-Za-z]", text)))
        raise AssertionError("cycle() never ends")


class Seen(NamedTuple):
    """What one answer was like: seconds, ratios and milliseconds."""

    first: float  # from the key to the first text seen
    lag: float  # from the engine's last token to the last text seen
    share: float  # speed seen to the engine's
    speed: float  # tokens a second seen
    engine: float
    thread: float  # main thread, milliseconds a token


@contextmanager
def program(*command: object, address: str, env: dict[str, str] | None = None) -> Iterator[None]:
    process = subprocess.Popen(
        [sys.executable, *map(str, command)],
        cwd=ROOT,
        env=os.environ | {"GRADIO_ANALYTICS_ENABLED": "False"} | (env or {}),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        while not answers(address):
            assert process.poll() is None, f"{command} ended"
            time.sleep(0.05)
        yield
    finally:
        process.terminate()
        process.wait()


@contextmanager
def llamaforge(browser: Browser, folder: Path, model: Path, turns: int) -> Iterator[Page]:
    config = folder / "config"
    (config / "models").mkdir(parents=True, exist_ok=True)
    (config / "settings.yaml").write_text("plugins: [paced_llamaforge]\n")
    (config / "models" / "tiny.yaml").write_text(
        f"backend: paced\npath: {model}\nparameters: {{n_ctx: {N_CTX}, n_threads: 1}}\n"
    )
    _write_chat(folder / f"data-{turns}", turns)
    port = free_port()
    flags = ["--config", config, "--data", folder / f"data-{turns}", "--port", port, "--model", "tiny"]
    with program("app.py", *flags, address=(url := f"http://127.0.0.1:{port}"), env={"PYTHONPATH": str(HERE)}):
        page = browser.new_page()
        page.goto(url)
        expect(page.locator("#model-status")).to_contain_text("ready", timeout=60_000)
        if turns:
            page.locator("#history-list [data-act=open]").first.click()
            expect(page.get_by_text(history(turns)[-1]["content"])).to_be_visible()
        yield page
        page.close()


def _write_chat(data: Path, turns: int) -> None:
    store = History(data / "chats.sqlite3")
    said = enumerate(history(turns), 1)
    records = [Record(number, number - 1 or None, one["role"], one["content"]) for number, one in said]
    if records:
        store.add_tree("owner", ChatRecord(new_id(), "A long chat", leaf=len(records)), records)
    store.close()


@contextmanager
def near(browser: Browser, folder: Path, model: Path, turns: int) -> Iterator[Page]:
    port = free_port()
    with program(HERE / "afternoon.py", "near", port, model, turns, address=(url := f"http://127.0.0.1:{port}")):
        page = browser.new_page()
        page.goto(url)
        yield page
        page.close()


@contextmanager
def client(browser: Browser, folder: Path, model: Path, turns: int) -> Iterator[Page]:
    port, server = free_port(), free_port()
    served = program(HERE / "afternoon.py", "server", server, model, address=f"http://127.0.0.1:{server}/v1/models")
    rival = program(HERE / "afternoon.py", "client", port, server, turns, address=(url := f"http://127.0.0.1:{port}"))
    with served, rival:
        page = browser.new_page()
        page.goto(url)
        yield page
        page.close()


OPEN: dict[str, Callable[[Browser, Path, Path, int], Any]] = {
    "llamaforge": llamaforge,
    "near": near,
    "client": client,
}


def prepare(side: str, page: Page) -> str:
    """Bring a page to where it was before the last answer; return where its message is written."""
    if side == "llamaforge":
        if page.locator("#undo").is_enabled() and page.get_by_text(MESSAGE).last.is_visible():
            page.locator("#undo").click()
            expect(page.locator("#chat-input textarea")).to_have_value(MESSAGE)
        return "#chat-input textarea"
    page.reload()
    box = "textarea"
    expect(page.locator(box).first).to_be_editable()
    time.sleep(1)  # the page has drawn its history, and asks for nothing more
    return box


def measure(side: str, page: Page, folder: Path, case: Case) -> Seen:
    answer = Answer.of(case.characters)
    Pace(answer.tokens, case.speed).write(folder)
    box = prepare(side, page)
    metrics = page.context.new_cdp_session(page)
    metrics.send("Performance.enable")
    page.locator(box).first.fill(MESSAGE)
    page.evaluate(PROBE, [SAID, answer.letters])
    time.sleep(0.5)  # what was done to prepare is done
    busy = _main_thread(metrics)
    page.locator(box).first.press("Enter")
    try:
        page.wait_for_function("() => window.seen.last", timeout=PATIENCE * 1000)
    except TimeoutError:
        page.evaluate("() => { window.seen.last = window.seen.first + 1e6; }")
    busy = _main_thread(metrics) - busy
    seen = page.evaluate("() => window.seen")
    metrics.detach()
    if side == "llamaforge":  # the answer moves into the chat
        page.wait_for_function("() => !document.querySelector('#live-turn .md > *')")
        expect(page.locator("#send")).to_be_visible()
    engine = Times.take(folder, side)
    lag = min(seen["last"] - engine.last, PATIENCE)
    part = (answer.letters - seen["begun"]) / answer.letters
    speed = answer.tokens * part / max(engine.last + lag - seen["first"], 1e-3)
    return Seen(
        first=seen["first"] - seen["asked"],
        lag=lag,
        share=speed / engine.speed,
        speed=speed,
        engine=engine.speed,
        thread=busy * 1000 / answer.tokens,
    )


def _main_thread(metrics: Any) -> float:
    named = {one["name"]: one["value"] for one in metrics.send("Performance.getMetrics")["metrics"]}
    return float(named["TaskDuration"])


def run(browser: Browser, folder: Path, cases: list[Case], rounds: int, rivals: int) -> dict[Case, dict[str, Seen]]:
    """Return the medians of every case and side."""
    model = write_tiny_gguf(folder / "tiny.gguf", TEXT, endless=True, n_ctx_train=N_CTX)
    seen: dict[Case, dict[str, list[Seen]]] = defaultdict(lambda: defaultdict(list))
    sides = ["llamaforge", *(["near", "client"] if rivals else [])]
    for turns in sorted({case.turns for case in cases}):
        with contextmanager_stack([OPEN[side](browser, folder, model, turns) for side in sides]) as pages:
            for side, page in zip(sides, pages, strict=True):
                measure(side, page, folder, Case(turns, 100, 0))  # the prompt is evaluated once
            for case in [case for case in cases if case.turns == turns]:
                for number in range(rounds):
                    for side, page in zip(sides, pages, strict=True):
                        told = seen[case][side]
                        slow = any(one.lag > SLOW for one in told) or (
                            case.speed and case.characters / case.speed > 100
                        )
                        if side != "llamaforge" and number >= (1 if slow else rivals):
                            continue
                        told.append(measure(side, page, folder, case))
                print(f"{case}: " + ", ".join(f"{side} {_median(told).lag:.3f}" for side, told in seen[case].items()))
    return {case: {side: _median(told) for side, told in sides.items()} for case, sides in seen.items()}


def _median(told: list[Seen]) -> Seen:
    return Seen(*(statistics.median(values) for values in zip(*told, strict=True)))


@contextmanager
def contextmanager_stack(managers: list[Any]) -> Iterator[list[Page]]:
    from contextlib import ExitStack

    with ExitStack() as stack:
        yield [stack.enter_context(manager) for manager in managers]


def report(found: dict[Case, dict[str, Seen]], plot: Path | None) -> None:
    print(machine("gradio", "llama-cpp-python", "playwright"))
    columns = ("side", "turns", "characters", "engine tokens/s", "first text s", "lag s", "seen/engine", "ms/token")
    rows = [
        (SIDES[side], case.turns, case.characters, one.engine, one.first, one.lag, one.share, one.thread)
        for case, sides in found.items()
        for side, one in sides.items()
    ]
    table("From the key to the last word, medians", columns, rows)
    none = {case: sides["llamaforge"].thread for case, sides in found.items() if case.turns == 0}
    ratios = [
        (case.turns, case.characters, case.speed or "free", sides["llamaforge"].thread / none[case._replace(turns=0)])
        for case, sides in found.items()
        if case.turns and case._replace(turns=0) in none
    ]
    table(
        "LlamaForge's main thread, a token, to a chat without history",
        ("turns", "characters", "pace", "ratio"),
        ratios,
    )
    bars = {
        f"{case.turns} turns": {SIDES[side]: one.lag for side, one in sides.items()}
        for case, sides in found.items()
        if (case.characters, case.speed) == (500, 0)
    }
    if bars and plot:
        save_plot(plot, "Seconds from the engine's last token to the page's, 500 characters", "s", bars)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--rivals", type=int, default=3, help="rounds of the rivals; 0 leaves them out")
    parser.add_argument("--quick", action="store_true", help="one round of two cases")
    parser.add_argument("--turns", type=int, nargs="*", default=[0, 20, 100])
    parser.add_argument("--characters", type=int, nargs="*", default=[500, 8000])
    parser.add_argument("--paces", type=int, nargs="*", default=[0, 400, 50], help="tokens a second; 0 is free")
    parser.add_argument("--plot", type=Path, metavar="FILE")
    flags = parser.parse_args()
    cases = [Case(*one) for one in product(flags.turns, flags.characters, flags.paces)]
    if flags.quick:
        cases, flags.rounds, flags.rivals = [Case(turns, 500, 0) for turns in (0, 20)], 1, min(1, flags.rivals)
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as playwright:
        path = shutil.which("chromium") or shutil.which("google-chrome")
        browser = playwright.chromium.launch(executable_path=path, args=["--no-sandbox", "--disable-dev-shm-usage"])
        report(run(browser, Path(folder), cases, flags.rounds, flags.rivals), flags.plot)
        browser.close()


if __name__ == "__main__":
    main()
