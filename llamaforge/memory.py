"""What this machine has and what fits: bytes of RAM and VRAM, against what a model needs."""

from __future__ import annotations

import functools
import os
import platform
import shutil
import subprocess
from dataclasses import dataclass

import psutil

from .errors import OutOfMemory
from .types import MemoryNeed

# Left free beside the model for the desktop, other programs and what an estimate misses.
HEADROOM = 512 * 2**20


@dataclass(frozen=True, slots=True)
class Gpu:
    """One graphics card; the bytes are None where no tool of this machine tells them."""

    name: str
    vram_total: int | None = None
    vram_free: int | None = None


@dataclass(frozen=True, slots=True)
class Memory:
    """Bytes in all and free, for RAM and for the graphics cards together."""

    ram_total: int
    ram_free: int
    vram_total: int = 0
    vram_free: int = 0


def measure(gpus: tuple[Gpu, ...] = ()) -> Memory:
    """Return the memory of this machine now, with that of the given cards."""
    ram = psutil.virtual_memory()
    return Memory(
        ram_total=ram.total,
        ram_free=ram.available,
        vram_total=sum(gpu.vram_total or 0 for gpu in gpus),
        vram_free=sum(gpu.vram_free or 0 for gpu in gpus),
    )


def find_gpus() -> tuple[Gpu, ...]:
    """Return the graphics cards that an engine could use, by the tools and devices of this machine."""
    if platform.system() == "Darwin":
        return (Gpu("Apple GPU"),) if platform.machine() == "arm64" else ()
    nvidia = _nvidia_gpus()
    if nvidia:
        return nvidia
    return (Gpu("AMD GPU"),) if os.path.exists("/dev/kfd") else ()


def _nvidia_gpus() -> tuple[Gpu, ...]:
    if shutil.which("nvidia-smi") is None:
        return ()
    query = ["nvidia-smi", "--query-gpu=name,memory.total,memory.free", "--format=csv,noheader,nounits"]
    try:
        lines = subprocess.run(query, capture_output=True, text=True, timeout=10, check=True).stdout.splitlines()
    except (OSError, subprocess.SubprocessError):
        return ()
    return tuple(_nvidia_gpu(line) for line in lines if line.count(",") >= 2)


def _nvidia_gpu(line: str) -> Gpu:
    name, total, free = (part.strip() for part in line.rsplit(",", 2))
    if not (total.isdigit() and free.isdigit()):  # "[N/A]" on cards that share the system's RAM
        return Gpu(name)
    return Gpu(name, int(total) * 2**20, int(free) * 2**20)


def verdict(need: MemoryNeed, memory: Memory, *, freed: int = 0, hint: str = "") -> str | None:
    """Return a warning where the model needs more than is free, None where it fits.

    Args:
        freed: bytes that unloading the running model gives back.
        hint: what to do about it, one sentence.

    Raises:
        OutOfMemory: the model needs more than all RAM and VRAM of the machine.
    """
    everything = memory.ram_total + memory.vram_total
    if need.total > everything:
        raise OutOfMemory(
            f"This model needs about {format_bytes(need.total)} with its context window; "
            f"this machine has {format_bytes(everything)} in all. {hint}".rstrip()
        )
    free = memory.ram_free + memory.vram_free + freed
    if need.total > free:
        return f"This model needs about {format_bytes(need.total)}; {format_bytes(free)} are free. {hint}".rstrip()
    return None


def format_bytes(count: float) -> str:
    """Return a number of bytes as a person reads it: "645 KB", "4.1 GB"."""
    for unit in ("bytes", "KB", "MB", "GB"):
        text = f"{count:.0f}" if unit in ("bytes", "KB") or count >= 99.95 else f"{count:.1f}"
        if float(text) < 1000:
            return f"{text} {unit}"
        count /= 1000
    return f"{count:,.1f} TB"


@functools.cache
def physical_cores() -> int:
    """Return the physical cores that this process may use; spinning threads beyond them only cost."""
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min(psutil.cpu_count(logical=False) or 1, allowed))


def format_count(number: int) -> str:
    """Return a number of parameters as people say it: "7.2 B", "158 k"."""
    for unit, factor in (("B", 1e9), ("M", 1e6), ("k", 1e3)):
        if number >= factor:
            return f"{number / factor:.3g} {unit}"
    return str(number)
