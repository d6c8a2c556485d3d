"""What does a start consist of? Medians of several starts, in seconds: imports, first byte, page usable.

python benchmarks/startup.py [--starts 3]
"""

from __future__ import annotations

import argparse
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from pathlib import Path

from playwright.sync_api import sync_playwright

ROOT = Path(__file__).resolve().parent.parent
IMPORTS = ("llamaforge", "gradio", "llamaforge_ui")


def seconds_of_import(module: str) -> float:
    started = time.perf_counter()
    subprocess.run([sys.executable, "-c", f"import {module}"], cwd=ROOT, check=True)
    return time.perf_counter() - started


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def seconds_to_first_byte_and_usable() -> tuple[float, float]:
    address = f"http://127.0.0.1:{(port := free_port())}"
    with tempfile.TemporaryDirectory() as config:
        started = time.perf_counter()
        app = subprocess.Popen(
            [sys.executable, "app.py", "--port", str(port), "--config", config, "--data", config],
            cwd=ROOT,
            stdout=subprocess.DEVNULL,
        )
        try:
            while not answers(address):
                time.sleep(0.02)
            first_byte = time.perf_counter() - started
            return first_byte, seconds_until_usable(address)
        finally:
            app.terminate()
            app.wait()


def answers(address: str) -> bool:
    try:
        with urllib.request.urlopen(address, timeout=30):
            return True
    except urllib.error.URLError:
        return False


def seconds_until_usable(address: str) -> float:
    """From opening the address in a browser that runs already until the message box takes text."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=shutil.which("chromium") or shutil.which("google-chrome"), args=["--no-sandbox"]
        )
        page = browser.new_page()
        started = time.perf_counter()
        page.goto(address)
        page.fill("#chat-input textarea", "x")
        usable = time.perf_counter() - started
        browser.close()
        return usable


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--starts", type=int, default=3)
    starts = range(parser.parse_args().starts)
    empty = statistics.median(seconds_of_import("sys") for _ in starts)
    print(f"{'Python alone':32} {empty:6.2f}")
    for module in IMPORTS:
        print(f"{'import ' + module:32} {statistics.median(seconds_of_import(module) for _ in starts):6.2f}")
    first_bytes, usables = zip(*(seconds_to_first_byte_and_usable() for _ in starts), strict=True)
    print(f"{'app.py until the first byte':32} {statistics.median(first_bytes):6.2f}")
    print(f"{'page opened until usable':32} {statistics.median(usables):6.2f}")


if __name__ == "__main__":
    main()
