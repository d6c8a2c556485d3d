"""The doctor's sentences: on this machine, and in a real environment that has nothing but the base packages."""

from __future__ import annotations

import importlib.metadata
import os
import re
import subprocess
import sys
import venv
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from scripted import ROOT

from llamaforge import doctor
from llamaforge.doctor import Finding
from llamaforge.engine_probe import Probed, probe
from llamaforge.memory import Gpu

BASE = ("pydantic", "PyYAML", "psutil", "platformdirs", "packaging", "filelock")  # of pyproject.toml
H100 = Gpu("NVIDIA H100", 80 * 2**30, 79 * 2**30)


def with_dependencies(names: tuple[str, ...]) -> Iterator[importlib.metadata.Distribution]:
    """Yield packages of this environment and what they need."""
    waiting, seen = list(names), set[str]()
    while waiting:
        name = waiting.pop().lower().replace("_", "-")
        if name in seen:
            continue
        seen.add(name)
        package = importlib.metadata.distribution(name)
        yield package
        needed = [Requirement(text) for text in package.requires or ()]
        waiting += [one.name for one in needed if one.marker is None or one.marker.evaluate({"extra": ""})]


@pytest.fixture(scope="module")
def bare_python(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A new environment, without a network: base packages and typer, linked from this one."""
    folder = tmp_path_factory.mktemp("bare")
    venv.create(folder / "venv", symlinks=True)
    packages = folder / "packages"
    packages.mkdir()
    for package in with_dependencies((*BASE, "typer")):
        for top in {Path(str(file)).parts[0] for file in package.files or ()} - {"..", "__pycache__"}:
            there = Path(str(package.locate_file(top)))
            if there.exists() and not (packages / top).exists():
                (packages / top).symlink_to(there)
    python = folder / "venv" / "bin" / "python"
    site = next((folder / "venv" / "lib").glob("python3*")) / "site-packages"
    (site / "here.pth").write_text(f"{packages}\n{ROOT}\n", "utf-8")
    return python


def bare(
    python: Path, *arguments: object, tools: Sequence[str] = ("c++", "cmake")
) -> subprocess.CompletedProcess[str]:
    """Run the program there; of this machine's programs it finds those alone that are named."""
    programs = python.parent / "-".join(["only", *tools])
    programs.mkdir(exist_ok=True)
    for tool in tools:
        (programs / tool).touch(mode=0o755)
    variables = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "VIRTUAL_ENV")}
    command = [str(python), "-m", "llamaforge", *map(str, arguments)]
    return subprocess.run(
        command, env={**variables, "PATH": str(programs)}, cwd="/", capture_output=True, text=True, timeout=60
    )


def sentences(said: str) -> str:
    """Return what the doctor printed with its lines joined, but for those that are for a shell."""
    return " ".join(line.strip() for line in said.splitlines() if not line.startswith(" " * 9))


def shell_lines(said: str) -> list[str]:
    return [line.strip() for line in said.splitlines() if line.startswith(" " * 9)]


def test_without_torch_and_llama_cpp_python_it_says_so_in_full_sentences(bare_python: Path, tmp_path: Path) -> None:
    done = bare(bare_python, "doctor", "--config", tmp_path, "--data", tmp_path / "data")
    said = sentences(done.stdout)
    assert (done.returncode, done.stderr) == (1, "")
    assert "GGUF files cannot be used yet: llama-cpp-python, jinja2, huggingface_hub and pillow are not" in said
    assert "Hugging Face models cannot be used yet: transformers, torch, safetensors, accelerate," in said
    assert "OpenAI's protocol cannot be used yet: openai and httpx are not installed. Install them:" in said
    assert "The page cannot be started yet: gradio, limits, pillow and xkcdpass are not installed." in said
    assert f"The config folder is {tmp_path}, and it can be written." in said
    assert f"The folder for chats is {tmp_path}/data; it is made when needed." in said
    lines = shell_lines(done.stdout)
    assert len(lines) == 4 and all(f"{bare_python} -m pip install " in line for line in lines)
    assert "llama-cpp-python==0.3.36" in lines[0] and "'torch>=2.6'" in lines[1]


@pytest.mark.parametrize(("tools", "lacking"), [(["c++"], "cmake"), ([], "c++ and cmake")])
def test_what_compiles_llama_cpp_python_is_missed_too(bare_python: Path, tools: list[str], lacking: str) -> None:
    said = bare(bare_python, "doctor", tools=tools).stdout
    assert f"To compile llama-cpp-python, {lacking} must be installed first" in sentences(said)
    assert len(shell_lines(said)) == 5


def test_without_any_engine_the_other_commands_work_in_sentences(bare_python: Path, tmp_path: Path) -> None:
    (tmp_path / "models").mkdir()
    for name, backend in (("a", "llama.cpp"), ("b", "huggingface"), ("c", "openai"), ("d", "echo")):
        (tmp_path / "models" / f"{name}.yaml").write_text(f"backend: {backend}\npath: x\n", "utf-8")
    done = bare(bare_python, "check", "--config", tmp_path)
    assert (done.returncode, done.stderr) == (1, "")
    *found, last = done.stdout.splitlines()
    assert [re.search(r"models/(\w).yaml:1: ", line)[1] for line in found] == ["a", "b", "c"]  # type: ignore[index]
    assert all("which is not installed. Install it and start again: pip install " in line for line in found)
    assert last.endswith(": 3 problems.")
    chat = bare(bare_python, "chat", "d", "--message", "Hello", "--config", tmp_path)
    assert (chat.stdout, chat.returncode) == ("Hello\n", 0)


def test_on_this_machine_nothing_is_missing(tmp_path: Path) -> None:
    found = doctor.examine(tmp_path, tmp_path)
    assert [str(finding) for finding in found if finding.is_problem and "GPU" not in finding.text] == []
    assert all(finding.text.endswith((".", ":")) for finding in found)


@pytest.mark.parametrize("engine", ["llama-cpp", "torch"])
def test_an_engine_tells_what_it_can_compute_on(engine: str) -> None:
    probed = probe(engine)
    assert probed.problem == "" and bool(probed.devices) <= probed.supports_gpu


def test_an_engine_that_cannot_be_imported_says_why(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "llama_cpp.py").write_text("raise OSError('libcuda.so.1: cannot open shared object file')", "utf-8")
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}{os.pathsep}{ROOT}")
    assert probe("llama-cpp") == Probed(problem="OSError: libcuda.so.1: cannot open shared object file")


def test_an_engine_that_ends_its_process_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "torch.py").write_text("import os; os.abort()", "utf-8")
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}{os.pathsep}{ROOT}")
    assert probe("torch").problem == "its process ended with code -6"


CPU_LLAMA, GPU_LLAMA = Probed(), Probed(("CUDA0: NVIDIA H100",), supports_gpu=True)
APPLE, AMD = Gpu("Apple GPU"), Gpu("AMD GPU")


@pytest.mark.parametrize(
    ("gpus", "probed", "words", "line"),
    [
        ((), CPU_LLAMA, "is built for the CPU", ""),
        ((H100,), GPU_LLAMA, "is built for a GPU and can use: CUDA0: NVIDIA H100.", ""),
        ((H100,), CPU_LLAMA, "was built for the CPU only. Build it for your NVIDIA H100:", "GGML_CUDA"),
        ((AMD,), CPU_LLAMA, "was built for the CPU only. Build it for your AMD GPU:", "GGML_HIP"),
        ((APPLE,), CPU_LLAMA, "was built for the CPU only. Build it for your Apple GPU:", "GGML_METAL"),
        ((H100,), Probed(problem="OSError: no"), "cannot be loaded: OSError: no. Install it anew:", "GGML_CUDA"),
    ],
)
def test_llama_cpps_build_is_held_against_the_gpu(
    gpus: tuple[Gpu, ...], probed: Probed, words: str, line: str
) -> None:
    finding = doctor.of_llama_cpp(probed, gpus, cards=())
    assert words in finding.text and finding.is_problem == bool(line)
    if line:
        assert finding.line.startswith(f'CMAKE_ARGS="-D{line}=on" {sys.executable} -m pip install --force-reinstall')


def test_a_card_that_no_driver_for_computing_knows_can_be_used_by_vulkan() -> None:
    assert '-DGGML_VULKAN=on" would build it' in doctor.of_llama_cpp(CPU_LLAMA, (), cards=("Intel",)).text


@pytest.mark.parametrize(
    ("gpus", "probed", "words", "problem"),
    [
        ((), Probed(), "is built for the CPU.", False),
        ((H100,), Probed(), "was built for the CPU only, so it leaves your NVIDIA H100 alone.", True),
        ((AMD,), Probed(), "pytorch.org/get-started/locally has the line for your ROCm.", True),
        ((H100,), Probed((), True, "CUDA 12.8"), "built for CUDA 12.8, but finds no GPU that it can use.", True),
        ((H100,), Probed(("cuda:0: NVIDIA H100",), True, "CUDA 12.8"), "and can use: cuda:0: NVIDIA H100.", False),
    ],
)
def test_pytorchs_build_is_held_against_the_gpu(
    gpus: tuple[Gpu, ...], probed: Probed, words: str, problem: bool
) -> None:
    finding = doctor.of_torch(probed, gpus)
    assert words in finding.text and finding.is_problem == problem


def test_the_makers_of_graphics_cards_are_read_from_the_system(tmp_path: Path) -> None:
    for name, vendor in {
        "card0": "0x8086\n",
        "card0-HDMI": "0x10de\n",
        "card1": "0x1002\n",
        "card2": "0x1234",
    }.items():
        (tmp_path / name / "device").mkdir(parents=True)
        (tmp_path / name / "device" / "vendor").write_text(vendor, "ascii")
    assert doctor.display_cards(tmp_path) == ("Intel", "AMD")
    assert doctor.display_cards(tmp_path / "nowhere") == ()


def test_a_folder_that_cannot_be_is_a_problem(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    found = doctor.examine(tmp_path / "file" / "configs", tmp_path)[-2]
    assert found == Finding(
        f"The config folder cannot be {tmp_path}/file/configs, as {tmp_path}/file is a file.", True
    )


def test_a_line_for_a_shell_is_never_wrapped() -> None:
    line = "pip install " + "a " * 100 + "b"
    assert str(Finding("It is missing. Install it:", True, line)).splitlines()[-1].strip() == line
