"""What fits: the verdict on a model's need, and what is known of the machine."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from llamaforge import MemoryNeed, OutOfMemory, format_bytes
from llamaforge.memory import Gpu, Memory, find_gpus, measure, physical_cores, verdict

GB = 10**9
MACHINE = Memory(ram_total=16 * GB, ram_free=8 * GB, vram_total=8 * GB, vram_free=2 * GB)


@pytest.fixture
def nvidia_smi(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A program of that name, first in the path; a test writes what it prints."""
    program = tmp_path / "bin" / "nvidia-smi"
    program.parent.mkdir()
    monkeypatch.setenv("PATH", str(program.parent) + os.pathsep + os.environ["PATH"])
    return program


def make_it_print(program: Path, text: str, *, code: int = 0) -> None:
    program.write_text(f"#!/bin/sh\ncat <<'END'\n{text}\nEND\nexit {code}\n")
    program.chmod(0o755)


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (0, "0 bytes"),
        (999, "999 bytes"),
        (1_000, "1 KB"),
        (645_000, "645 KB"),
        (999_999, "1.0 MB"),
        (5_793_824, "5.8 MB"),
        (99_960_000, "100 MB"),
        (134_000_000, "134 MB"),
        (999_999_999, "1.0 GB"),
        (4_100_000_000, "4.1 GB"),
        (24_000_000_000, "24.0 GB"),
        (154_000_000_000, "154 GB"),
        (1_200_000_000_000, "1.2 TB"),
        (5_000_000_000_000_000, "5,000.0 TB"),
    ],
)
def test_bytes_are_told_as_people_read_them(count: int, text: str) -> None:
    assert format_bytes(count) == text


def test_the_need_is_the_sum_of_its_parts() -> None:
    assert MemoryNeed(weights=5, kv_cache=3, compute=2).total == 10


@pytest.mark.parametrize("weights", [1 * GB, 10 * GB], ids=["small", "all that is free"])
def test_what_fits_is_not_spoken_of(weights: int) -> None:
    assert verdict(MemoryNeed(weights), MACHINE) is None


def test_more_than_is_free_is_a_warning_that_says_what_to_do() -> None:
    warning = verdict(MemoryNeed(10 * GB, 1 * GB), MACHINE, hint="Lower n_ctx.")
    assert warning == "This model needs about 11.0 GB; 10.0 GB are free. Lower n_ctx."


def test_what_unloading_frees_counts_as_free() -> None:
    assert verdict(MemoryNeed(11 * GB), MACHINE, freed=GB) is None
    assert verdict(MemoryNeed(11 * GB + 1), MACHINE, freed=GB) is not None


def test_more_than_the_whole_machine_is_refused() -> None:
    assert verdict(MemoryNeed(24 * GB), MACHINE) is not None
    with pytest.raises(OutOfMemory) as caught:
        verdict(MemoryNeed(24 * GB, 100 * GB), MACHINE, hint="Lower n_ctx.")
    assert str(caught.value) == (
        "This model needs about 124 GB with its context window; this machine has 24.0 GB in all. Lower n_ctx."
    )


def test_this_machine_has_memory() -> None:
    memory = measure()
    assert 0 < memory.ram_free <= memory.ram_total
    assert (memory.vram_total, memory.vram_free) == (0, 0)


def test_the_cards_memory_is_added_up_as_far_as_it_is_known() -> None:
    memory = measure((Gpu("a", 8 * GB, 2 * GB), Gpu("b", 4 * GB, 1 * GB), Gpu("silent")))
    assert (memory.vram_total, memory.vram_free) == (12 * GB, 3 * GB)


def test_nvidia_cards_are_read_from_their_tool(nvidia_smi: Path) -> None:
    make_it_print(nvidia_smi, "NVIDIA RTX A, 24564, 20000\nNVIDIA, with comma, 100, 50\nNVIDIA GB10, [N/A], [N/A]")
    assert find_gpus() == (
        Gpu("NVIDIA RTX A", 24564 * 2**20, 20000 * 2**20),
        Gpu("NVIDIA, with comma", 100 * 2**20, 50 * 2**20),
        Gpu("NVIDIA GB10"),
    )


@pytest.mark.parametrize(("text", "code"), [("NVIDIA-SMI has failed", 9), ("No devices were found", 0), ("", 0)])
def test_a_tool_that_fails_means_no_nvidia_card(nvidia_smi: Path, text: str, code: int) -> None:
    make_it_print(nvidia_smi, text, code=code)
    assert not [gpu for gpu in find_gpus() if "NVIDIA" in gpu.name]


def test_there_is_at_least_one_core() -> None:
    assert 1 <= physical_cores() <= (os.cpu_count() or 1)
