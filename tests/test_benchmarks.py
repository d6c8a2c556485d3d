"""Every benchmark runs, briefly, and tells all of its rows; how fast anything is, no test says."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest
from scripted import ROOT

HAS_MATPLOTLIB = importlib.util.find_spec("matplotlib") is not None
ROWS = {
    "engine": [
        *(
            f"{model}: {side}"
            for model in ("tiny, 200 tokens", "small, 16 tokens", "small, 16 sampled")
            for side in ("LlamaForge", "in its worker", "llama-cpp-python", "low-level loop")
        ),
        "small, 16 transformers: LlamaForge",
        "small, 16 transformers: TextIteratorStreamer",
    ],
    "load": [
        "llama.cpp, tiny-f32, medians of 1 (ratios to engine, new process)",
        "transformers, tiny, medians of 1 (ratios to engine, new process)",
        "engine, this process",
        "LlamaForge, worker",
    ],
    "long_chat": [f"{what}, s" for what in ("opened", "first word", "lag at the end")],
    "page": ["LlamaForge", "gr.ChatInterface, llama-cpp-python", "gr.ChatInterface, openai"],
    "people": [f"{visitors} of {side}" for visitors in (1, 4, 16) for side in ("LlamaForge", "llama_cpp.server")],
    "startup": ["import, s", "first byte, s", "usable, s", "RSS, MiB"],
    "turns": [str(turn) for turn in range(1, 5)],
    "threads": ["prompt, 128 at a time", "prompt, 256 at a time", "prompt, 512 at a time", "answer"],
}


@pytest.mark.parametrize(("name", "rows"), ROWS.items(), ids=ROWS)
def test_a_benchmark_runs_and_prints_its_table(name: str, rows: list[str], tmp_path: Path) -> None:
    plot = tmp_path / "plot.png"
    command = [sys.executable, f"benchmarks/{name}.py", "--quick"]
    command += ["--plot", str(plot)] if HAS_MATPLOTLIB else []
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    begun = [line.partition("  ")[0] for line in done.stdout.splitlines()]
    assert [row for row in rows if row not in begun] == []
    assert plot.exists() == HAS_MATPLOTLIB
