"""What the engines that are installed here can compute on: python -m llamaforge.engine_probe llama-cpp

A process of its own asks them, as a library that does not fit this machine may end it. It prints one line of JSON.
"""

from __future__ import annotations

import ctypes
import json
import subprocess
import sys
from dataclasses import dataclass
from typing import Any

PATIENCE = 120.0  # seconds; to import torch from a slow disk may take one of the two minutes
CPU = 0  # of the enum ggml_backend_dev_type


@dataclass(frozen=True, slots=True)
class Probed:
    """What an engine said: the devices that it can use, the CPU not among them, or why it said nothing."""

    devices: tuple[str, ...] = ()
    supports_gpu: bool = False
    built_for: str = ""
    problem: str = ""


def probe(engine: str) -> Probed:
    """Ask an installed engine, "llama-cpp" or "torch", for its devices."""
    command = [sys.executable, "-m", "llamaforge.engine_probe", engine]
    try:
        done = subprocess.run(command, capture_output=True, text=True, errors="replace", timeout=PATIENCE)
        lines = done.stdout.splitlines()
        if done.returncode == 0 and lines:
            said = json.loads(lines[-1])
            return Probed(tuple(said["devices"]), said["supports_gpu"], said["built_for"])
    except subprocess.TimeoutExpired:
        return Probed(problem=f"it does not answer within {PATIENCE:.0f} seconds")
    except (OSError, ValueError, KeyError) as error:
        return Probed(problem=f"{type(error).__name__}: {error}")
    last = (done.stderr.strip().splitlines() or [f"its process ended with code {done.returncode}"])[-1]
    return Probed(problem=last)


def _llama_cpp() -> dict[str, Any]:
    import llama_cpp

    supports_gpu = bool(llama_cpp.llama_supports_gpu_offload())
    try:
        devices = _ggml_devices()
    except (ImportError, OSError, AttributeError):
        devices = []  # an internal module of llama-cpp-python's, which may change
    return {"devices": devices, "supports_gpu": supports_gpu, "built_for": ""}


def _ggml_devices() -> list[str]:
    """Return the devices of ggml's registry, by backend and description ("CUDA0: NVIDIA H100")."""
    from llama_cpp._ggml import libggml

    libggml.ggml_backend_dev_count.restype = ctypes.c_size_t
    libggml.ggml_backend_dev_get.restype = ctypes.c_void_p
    libggml.ggml_backend_dev_get.argtypes = [ctypes.c_size_t]
    for name in ("name", "description"):
        getattr(libggml, f"ggml_backend_dev_{name}").restype = ctypes.c_char_p
    for name in ("name", "description", "type"):
        getattr(libggml, f"ggml_backend_dev_{name}").argtypes = [ctypes.c_void_p]
    devices = [libggml.ggml_backend_dev_get(number) for number in range(libggml.ggml_backend_dev_count())]
    return [
        f"{libggml.ggml_backend_dev_name(device).decode()}: {libggml.ggml_backend_dev_description(device).decode()}"
        for device in devices
        if libggml.ggml_backend_dev_type(device) != CPU
    ]


def _torch() -> dict[str, Any]:
    import torch

    cards = torch.cuda.device_count() if torch.cuda.is_available() else 0
    devices = [f"cuda:{number}: {torch.cuda.get_device_name(number)}" for number in range(cards)]
    devices += ["mps: Apple GPU"] if torch.backends.mps.is_available() else []
    cuda, hip = torch.version.cuda, torch.version.hip
    built_for = f"CUDA {cuda}" if cuda else f"ROCm {hip}" if hip else "MPS" if torch.backends.mps.is_built() else ""
    return {"devices": devices, "supports_gpu": bool(built_for), "built_for": built_for}


if __name__ == "__main__":
    print(json.dumps({"llama-cpp": _llama_cpp, "torch": _torch}[sys.argv[1]]()))
