"""Faults that no other module is about: hostile models, odd folders, many people, plain sentences."""

from __future__ import annotations

import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from fault_backend import FaultBackend
from page_kit import Program, free_port
from scripted import ROOT, run_python, until
from tiny_gguf import write_tiny_gguf
from worker_kit import SOON, ask, begun, is_well, isolated, result_of, workers

from llamaforge import LlamaForge, LlamaForgeError, ModelError, NoModelLoaded, describe, worker_backend

ENDLESS_TEMPLATE = "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}hi"
ELSEWHERE = """
import resource, sys
from pathlib import Path
from worker_kit import ask, isolated, result_of

if sys.argv[2] == "no file may be written":
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
with isolated(Path("."), tiny=Path(sys.argv[1])) as forge:
    forge.load_model("tiny")
    print(forge.generate("hi", {"max_tokens": 1}).strip(), forge.status.state)
"""


TWO_PROGRAMS = """
import sys
from llamaforge import ConfigConflict, LlamaForge

forge = LlamaForge(sys.argv[1])
for number in range(1, 16):
    forge.add_model(f"{sys.argv[2]} {number}", "anywhere", "echo")
    forge.config.save()
    try:
        forge.config.save_parameters("shared", {"max_tokens": number + 15 * (sys.argv[2] == "bob")})
    except ConfigConflict:
        pass  # the other one was quicker, and this one is told so
"""


@pytest.fixture
def far(tmp_path: Path) -> Iterator[LlamaForge]:
    with isolated(tmp_path) as forge:
        yield forge


def test_stop_ends_a_chat_template_that_never_ends(tmp_path: Path) -> None:
    model = write_tiny_gguf(tmp_path / "m.gguf", width=64, layers=1, answer="Hi.", chat_template=ENDLESS_TEMPLATE)
    with isolated(tmp_path, model=model) as far:
        far.load_model("model")
        answer = far.generate_stream("hi")
        until(lambda: answer.running)
        answer.stop()
        assert result_of(answer, SOON).finish_reason == "cancelled"
        assert far.generate("hi", raw=True) == "Hi."


def test_a_load_that_takes_all_memory_says_so_and_what_to_do(far: LlamaForge) -> None:
    caught: list[LlamaForgeError] = []

    def load() -> None:
        try:
            far.load_model("fault", {"mode": "load_hang"})
        except LlamaForgeError as error:
            caught.append(error)

    loader = threading.Thread(target=load)
    loader.start()
    until(workers)
    workers()[0].kill()  # as the system does where memory has run out
    loader.join(SOON)
    assert "memory ran out. Lower n_ctx" in str(caught[0]) and far.status.error is caught[0]
    far.load_model("fault")
    assert is_well(far)


def test_a_load_that_crashes_is_not_tried_again_by_itself(far: LlamaForge, monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[str] = []
    child = worker_backend.Child
    monkeypatch.setattr(worker_backend, "Child", lambda place, secrets: started.append(place) or child(place))
    with pytest.raises(ModelError):
        far.load_model("fault", {"mode": "load_segv"})
    assert len(started) == 1 and far.status.state == "empty"


def test_a_message_while_the_model_loads_is_answered_with_a_sentence(far: LlamaForge) -> None:
    loader = threading.Thread(target=far.load_model, args=["fault", {"mode": "load_slow", "load_seconds": 2.0}])
    loader.start()
    until(lambda: far.status.state == "loading")
    with pytest.raises(NoModelLoaded, match="still loading"):
        ask(far)
    loader.join()
    assert is_well(far)


@pytest.mark.parametrize("mode", ["raise_at", "sys_exit", "segv", "exit", "bytes", "none", "dict", "number_in_chunk"])
def test_no_sentence_tells_a_path_or_a_trace(far: LlamaForge, tmp_path: Path, mode: str) -> None:
    far.load_model("fault")
    sentence = str(result_of(ask(far, mode)).error)
    assert sentence.endswith((".", "melted", "3")) and "\n" not in sentence
    assert not [word for word in ("Traceback", "/", str(ROOT), str(tmp_path), "Error(") if word in sentence]


@pytest.mark.parametrize("isolate", [False, True], ids=["near", "far"])
def test_twenty_chats_at_once_are_never_mixed(tmp_path: Path, isolate: bool) -> None:
    mixed: list[str] = []

    def talk(mark: str) -> None:
        for turn in range(20):
            answer = forge.generate(f"{mark} {turn}")
            if answer != f"{mark} {turn}":
                mixed.append(answer)

    with isolated(tmp_path, isolate=isolate) as forge:
        forge.add_model("echo", "nowhere", "echo")
        forge.load_model("echo")
        people = [threading.Thread(target=talk, args=[f"visitor-{number}"]) for number in range(20)]
        for one in people:
            one.start()
        for one in people:
            one.join()
    assert mixed == []


def test_a_file_edited_by_hand_changes_nothing_until_it_is_read_and_loaded_again(far: LlamaForge) -> None:
    far.config.save()
    far.load_model("fault")
    file = far.config.folder / "models" / "fault.yaml"
    file.write_text("backend: fault\npath: nowhere\nparameters: {max_tokens: 2}\n", "utf-8")
    assert is_well(far)
    far.config.reload()
    assert is_well(far)
    far.load_model("fault")
    assert far.generate("hi") == "0 1 "


def test_a_file_broken_by_hand_leaves_the_running_model(far: LlamaForge) -> None:
    far.config.save()
    far.load_model("fault")
    (far.config.folder / "models" / "fault.yaml").write_text("backend: 'fault\n", "utf-8")
    far.config.reload()
    assert is_well(far)
    with pytest.raises(LlamaForgeError, match="a quote is not closed"):
        far.load_model("fault")
    assert is_well(far)


@pytest.mark.parametrize("place", ["blanks and ünïcode", "no file may be written"])
def test_it_runs_from_any_folder(tmp_path: Path, tiny_gguf: Path, monkeypatch: pytest.MonkeyPatch, place: str) -> None:
    folder = tmp_path / place
    folder.mkdir()
    script = f"import sys\nsys.path.append({str(ROOT / 'tests')!r})\n{ELSEWHERE}"
    done = run_python(script, tiny_gguf, place, folder=folder)
    assert (done.stdout, done.returncode) == ("Hello! ready\n", 0), done.stderr


def test_two_programs_on_one_config_folder_lose_nothing_of_each_other(tmp_path: Path) -> None:
    shared = LlamaForge(tmp_path)
    shared.add_model("shared", "anywhere", "echo")
    shared.config.save()
    done: list[subprocess.CompletedProcess[str]] = []
    programs = [
        threading.Thread(target=lambda name=name: done.append(run_python(TWO_PROGRAMS, tmp_path, name)))
        for name in ("ada", "bob")
    ]
    for program in programs:
        program.start()
    for program in programs:
        program.join()
    assert [(one.returncode, one.stderr) for one in done] == [(0, ""), (0, "")]
    config = LlamaForge(tmp_path).config
    assert len(config.models) == 31 and not any(model.problem for model in config.models.values())
    assert config.models["shared"].parameters["max_tokens"] in range(1, 31)
    assert not list(tmp_path.rglob("*.tmp*"))


def test_an_unloaded_model_refuses_in_a_sentence_and_one_unloaded_in_an_answer_keeps_its_text(far: LlamaForge) -> None:
    far.load_model("fault")
    answer = begun(ask(far, "slow"))
    far.unload_model()
    assert result_of(answer).text.startswith("0 1 2 ")
    with pytest.raises(NoModelLoaded, match="Choose one and press Load"):
        ask(far)


def test_a_killed_app_leaves_no_process_and_starts_again_at_the_same_port(tmp_path: Path, tiny_gguf: Path) -> None:
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / "tiny.yaml").write_text(f"backend: llama.cpp\npath: {tiny_gguf}\n", "utf-8")
    flags = ("--config", str(tmp_path), "--port", str(free_port()), "--model", "tiny")
    program = Program(*flags)
    address = program.wait_until_up()
    until(lambda: workers(program.process.pid))
    children = psutil.Process(program.process.pid).children(recursive=True)
    program.process.kill()
    left = psutil.wait_procs(children, SOON)[1]
    for child in left:
        child.kill()
    assert (program.ended(), left) == (-9, [])
    again = Program(*flags)
    assert again.wait_until_up() == address and again.stop() == 0


def test_the_fault_backend_has_every_mode_that_it_promises() -> None:
    modes = describe(FaultBackend.Parameters)["mode"].choices
    missing = [mode for mode in modes if not mode.startswith("load_") and not hasattr(FaultBackend, f"_{mode}")]
    assert missing == ["ok"]
