"""What is installed here, what it can use, and the exact line that installs what is missing, in sentences."""

from __future__ import annotations

import os
import platform
import re
import shlex
import shutil
import sys
import textwrap
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from .backends.llama_cpp_native import GPU_BUILDS
from .config import data_folder, default_folder
from .engine_probe import Probed, probe
from .memory import Gpu, find_gpus, format_bytes, measure
from .packages import COMPILED, install_line, installed_version, missing

VULKAN = "GGML_VULKAN"
CPU_WHEELS = "https://download.pytorch.org/whl/cpu"
VENDORS = {"0x10de": "NVIDIA", "0x1002": "AMD", "0x8086": "Intel"}
DRM = Path("/sys/class/drm")
WIDTH = 110


@dataclass(frozen=True, slots=True)
class Finding:
    """A sentence, whether it tells of a problem, and the line for a shell that mends it, where there is one."""

    text: str
    is_problem: bool = False
    line: str = ""

    def __str__(self) -> str:
        """Return it wrapped for a terminal, but for the line, which is copied whole."""
        mark = "[!!]" if self.is_problem else "[ok]"
        text = textwrap.fill(self.text, WIDTH, initial_indent=f"{mark} ", subsequent_indent="     ")
        return f"{text}\n         {self.line}" if self.line else text


def examine(config: Path | None = None, data: Path | None = None) -> list[Finding]:
    """Return what there is to say of this machine and of what is installed, in the order of a first installation."""
    gpus, cards = find_gpus(), display_cards()
    return [
        _python(),
        *_hardware(gpus, cards),
        *_absent_tools(),
        _absent_llama_cpp(gpus) or of_llama_cpp(probe("llama-cpp"), gpus, cards),
        _absent_huggingface(gpus) or _extra("huggingface", "transformers", "Hugging Face models can be used"),
        *([of_torch(probe("torch"), gpus)] if installed_version("torch") else []),
        _extra("openai", "openai", "Services and servers that speak OpenAI's protocol can be used"),
        _extra("ui", "gradio", "The page can be started"),
        _folder("The config folder", (config or default_folder()).absolute()),
        _folder("The folder for chats", data_folder(data).absolute()),
    ]


def display_cards(drm: Path = DRM) -> tuple[str, ...]:
    """Return the makers of this machine's graphics cards, also of those that no driver for computing knows (Linux)."""
    found = []
    for file in sorted(drm.glob("card*/device/vendor")):
        try:
            vendor = VENDORS.get(file.read_text("ascii").strip())
        except (OSError, ValueError):
            continue
        if vendor and re.fullmatch(r"card\d+", file.parent.parent.name):
            found.append(vendor)
    return tuple(dict.fromkeys(found))


def _python() -> Finding:
    try:
        own = f"LlamaForge {version('llamaforge')}"
    except PackageNotFoundError:
        own = "LlamaForge from a checkout"
    return Finding(f"{own} runs on Python {platform.python_version()} at {sys.executable}, {platform.platform()}.")


def _hardware(gpus: tuple[Gpu, ...], cards: tuple[str, ...]) -> Iterator[Finding]:
    memory = measure(gpus)
    yield Finding(f"{format_bytes(memory.ram_free)} of {format_bytes(memory.ram_total)} of memory (RAM) are free.")
    for gpu in gpus:
        free = gpu.vram_free is not None and gpu.vram_total is not None
        said = f", {format_bytes(gpu.vram_free or 0)} of {format_bytes(gpu.vram_total or 0)} free" if free else ""
        yield Finding(f"This computer has a GPU: {gpu.name}{said}.")
    if gpus:
        return
    if "NVIDIA" in cards:
        yield Finding("There is an NVIDIA card, but no driver for it: nvidia-smi does not answer. Install the driver.")
    elif cards:
        yield Finding(
            f"There is a graphics card of {' and of '.join(cards)}, which llama.cpp can use where its driver and "
            f'the Vulkan SDK are installed and it is built with CMAKE_ARGS="-D{VULKAN}=on".'
        )
    else:
        yield Finding("No GPU was found, so models run on the CPU: small and quantised ones are fast enough there.")


def _build_for(gpus: tuple[Gpu, ...], cards: tuple[str, ...]) -> str:
    """Return llama.cpp's build flag for what is in this machine, empty for the CPU."""
    if gpus:
        return GPU_BUILDS.get(gpus[0].name, "GGML_CUDA")
    return VULKAN if {*cards} - {"NVIDIA"} else ""


def _absent_tools() -> Iterator[Finding]:
    """Yield what is missing to compile llama-cpp-python, where it is yet to be."""
    lacking = [tool for tool in ("c++", "cmake") if shutil.which(tool) is None]
    if not lacking or installed_version(COMPILED):
        return
    is_mac = platform.system() == "Darwin"
    line = "xcode-select --install; brew install cmake" if is_mac else "sudo apt-get install build-essential cmake"
    where = "" if is_mac else "; on Debian and Ubuntu"
    yield Finding(f"To compile llama-cpp-python, {_listed(lacking)} must be installed first{where}:", True, line)


def _absent_llama_cpp(gpus: tuple[Gpu, ...]) -> Finding | None:
    lacking = [one.name for one in missing("llama-cpp")]
    if not lacking:
        return None
    compiles = COMPILED in lacking
    flag = _build_for(gpus, ()) if compiles else ""  # not Vulkan: its SDK is seldom there, and the CPU always is
    how = f" (a C++ compiler and CMake compile the first for 5 to 10 minutes{_built_for(flag)})" if compiles else ""
    text = f"GGUF files cannot be used yet: {_said('llama-cpp')}. Install {_them('llama-cpp')}{how}:"
    return Finding(text, True, install_line("llama-cpp", cmake=flag))


def of_llama_cpp(found: Probed, gpus: tuple[Gpu, ...], cards: tuple[str, ...]) -> Finding:
    """Return what there is to say of an installed llama-cpp-python."""
    own, flag = f"llama-cpp-python {installed_version(COMPILED)}", _build_for(gpus, cards)
    again = install_line("llama-cpp", cmake=_build_for(gpus, ()), again=True)
    if found.problem:
        return Finding(f"{own} is installed but cannot be loaded: {found.problem}. Install it anew:", True, again)
    if found.supports_gpu:
        uses = _listed(list(found.devices)) if found.devices else "none that it finds now"
        return Finding(
            f"GGUF files can be used. {own} is built for a GPU and can use: {uses}.", bool(gpus) and not found.devices
        )
    if gpus:
        text = f"GGUF files can be used, but {own} was built for the CPU only. Build it for your {gpus[0].name}:"
        return Finding(text, True, again)
    return Finding(f"GGUF files can be used. {own} is built for the CPU{_others(flag)}.")


def _built_for(flag: str) -> str:
    return f", here for the GPU by {flag}" if flag else ""


def _others(flag: str) -> str:
    return f'; CMAKE_ARGS="-D{flag}=on" would build it for the graphics card' if flag else ""


def _absent_huggingface(gpus: tuple[Gpu, ...]) -> Finding | None:
    if not missing("huggingface"):
        return None
    small = not gpus and platform.system() == "Linux" and installed_version("torch") is None
    why = " (with PyTorch for the CPU alone, which saves gigabytes)" if small else ""
    text = f"Hugging Face models cannot be used yet: {_said('huggingface')}. Install {_them('huggingface')}{why}:"
    options = ("--extra-index-url", CPU_WHEELS) if small else ()
    return Finding(text, True, install_line("huggingface", options=options))


def of_torch(found: Probed, gpus: tuple[Gpu, ...]) -> Finding:
    """Return what there is to say of an installed PyTorch."""
    own = f"PyTorch {installed_version('torch')}"
    again = shlex.join([sys.executable, "-m", "pip", "install", "--force-reinstall", "--no-cache-dir", "torch"])
    if found.problem:
        return Finding(f"{own} is installed but cannot be loaded: {found.problem}. Install it anew:", True, again)
    if found.devices:
        return Finding(f"{own} is built for {found.built_for} and can use: {_listed(list(found.devices))}.")
    if gpus and not found.supports_gpu:
        text = f"{own} was built for the CPU only, so it leaves your {gpus[0].name} alone."
        if gpus[0].name == "AMD GPU":
            return Finding(f"{text} https://pytorch.org/get-started/locally has the line for your ROCm.", True)
        return Finding(f"{text} Install its build for the GPU:", True, again)
    if found.built_for:
        return Finding(f"{own} is built for {found.built_for}, but finds no GPU that it can use.", bool(gpus))
    return Finding(f"{own} is built for the CPU.")


def _extra(extra: str, package: str, can: str) -> Finding:
    if missing(extra):
        cannot = can.replace("can be", "cannot be")
        return Finding(f"{cannot} yet: {_said(extra)}. Install {_them(extra)}:", True, install_line(extra))
    return Finding(f"{can}: {package} {installed_version(package)} is installed.")


def _said(extra: str) -> str:
    """Return what is missing of an extra and what is too old, as a part of a sentence."""
    names = {one.name: installed_version(one.name) for one in missing(extra)}
    absent = [name for name, there in names.items() if there is None]
    unfit = [f"{name} {there} does not fit" for name, there in names.items() if there is not None]
    said = [f"{_listed(absent)} {'is' if len(absent) == 1 else 'are'} not installed"] if absent else []
    return _listed([*said, *unfit])


def _them(extra: str) -> str:
    return "it" if len(missing(extra)) == 1 else "them"


def _listed(names: list[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


def _folder(what: str, folder: Path) -> Finding:
    there = folder
    while not there.exists() and there != there.parent:
        there = there.parent
    if not there.is_dir():
        return Finding(f"{what} cannot be {folder}, as {there} is a file.", True)
    if not os.access(there, os.W_OK | os.X_OK):
        return Finding(f"{what} is {folder}, where you may not write: nothing can be saved there.", True)
    return Finding(
        f"{what} is {folder}{', and it can be written' if there == folder else '; it is made when needed'}."
    )
