"""Is a long chat as quick as a new one? Medians in seconds, in Chromium, and ratios to a new chat.

Opening is from the click on the chat's title to its last message on the page; the first word is from Send on; the lag
is what the page takes longer than the engine, the echo backend at 50 words a second. The lengths take turns.

python benchmarks/long_chat.py [--rounds 9] [--plot FILE] [--quick]
"""

from __future__ import annotations

import argparse
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from pathlib import Path

from playwright.sync_api import Page, expect, sync_playwright
from report import machine, save_plot, table
from startup import ROOT, answers, free_port

sys.path.insert(0, str(ROOT))

from llamaforge_ui.history import ChatRecord, History, Record, new_id

LENGTHS = (0, 40, 200, 1000)
SPEED = 50  # words a second
MESSAGE = " ".join(["word"] * 100)


def write_chats(data: Path) -> None:
    history = History(data / "chats.sqlite3")
    for length in LENGTHS:
        texts = [f"Message {number} of {length}. {'It says little. ' * 5}" for number in range(1, length + 1)]
        roles = [("user", "assistant")[number % 2] for number in range(length)]
        records = [
            Record(n, n - 1 or None, role, text) for n, (role, text) in enumerate(zip(roles, texts, strict=True), 1)
        ]
        history.add_tree("owner", ChatRecord(new_id(), f"chat of {length}", leaf=length or None), records)
    history.close()


def measure(page: Page, length: int) -> dict[str, float]:
    title = page.locator("#history-list [data-act=open]").filter(has_text=f"chat of {length}")
    begun = time.perf_counter()
    title.click()
    if length:
        expect(page.get_by_text(f"Message {length} of {length}.")).to_be_visible()
    else:
        expect(page.locator("#history-list [aria-current=page]")).to_have_text(f"chat of {length}")
    opened = time.perf_counter()
    page.fill("#chat-input textarea", MESSAGE)
    asked = time.perf_counter()
    page.press("#chat-input textarea", "Enter")
    page.wait_for_function("() => document.querySelector('#live-turn .md')?.textContent.length > 0")
    first = time.perf_counter()
    end = "(words) => document.querySelector('#live-turn .md')?.textContent.trim().split(' ').length >= words"
    page.wait_for_function(end, arg=len(MESSAGE.split()), polling="raf")
    ended = time.perf_counter()
    page.wait_for_function("() => !document.querySelector('#live-turn .md')?.textContent")
    expect(page.locator("#send")).to_be_visible()
    page.locator("#undo").click()  # the chat is as long as before
    expect(page.locator("#chat-input textarea")).to_have_value(MESSAGE)
    page.fill("#chat-input textarea", "")
    lag = ended - asked - len(MESSAGE.split()) / SPEED
    return {"opened": opened - begun, "first word": first - asked, "lag at the end": lag}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--plot", type=Path, metavar="FILE")
    parser.add_argument("--quick", action="store_true", help="does it run? one round")
    flags = parser.parse_args()
    rounds = 1 if flags.quick else flags.rounds
    print(machine("gradio", "playwright"))
    seen: dict[str, dict[int, list[float]]] = defaultdict(lambda: defaultdict(list))
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as playwright:
        models = Path(folder) / "models"
        models.mkdir()
        (models / "echo.yaml").write_text(f"backend: echo\npath: echo\nparameters:\n  tokens_per_second: {SPEED}\n")
        write_chats(Path(folder))
        port = free_port()
        started = ["--config", folder, "--data", folder, "--port", str(port), "--model", "echo"]
        app = subprocess.Popen([sys.executable, "app.py", *started], cwd=ROOT, stdout=subprocess.DEVNULL)
        try:
            while not answers(f"http://127.0.0.1:{port}"):
                time.sleep(0.05)
            path = shutil.which("chromium") or shutil.which("google-chrome")
            page = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"]).new_page()
            page.goto(f"http://127.0.0.1:{port}")
            expect(page.locator("#model-status")).to_contain_text("ready")
            for _ in range(rounds):
                for length in LENGTHS:
                    for name, value in measure(page, length).items():
                        seen[name][length].append(value)
        finally:
            app.terminate()
            app.wait()
    medians = {name: [statistics.median(values[length]) for length in LENGTHS] for name, values in seen.items()}
    rows = [
        (f"{name}, {what}", *(value if what == "s" else value / told[0] for value in told))
        for name, told in medians.items()
        for what in ("s", "to a new chat")
    ]
    table(f"Messages in the chat, medians of {rounds} rounds", ("", *(f"{length:,}" for length in LENGTHS)), rows)
    if flags.plot:
        bars = {
            f"{length:,} messages": {name: told[n] for name, told in medians.items()}
            for n, length in enumerate(LENGTHS)
        }
        save_plot(flags.plot, "A long chat beside a new one", "seconds", bars)


if __name__ == "__main__":
    main()
