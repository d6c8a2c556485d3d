"""The command line: what it prints, what it exits with, and that a terminal can stop and end it."""

from __future__ import annotations

import errno
import os
import pty
import re
import select
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest
from scripted import PATIENCE, ROOT, run_python
from tiny_gguf import DEFAULT_ANSWER, THINKING_ANSWER, write_tiny_gguf
from tiny_hf import write_tiny_hf

from guide.texts import read_texts
from llamaforge import LlamaForge, ParameterError, Result, Usage, cli, cli_chat

IN_ITS_TERMINAL = """
import fcntl, os, sys, termios
fcntl.ioctl(0, termios.TIOCSCTTY, 0)  # so that Ctrl-C typed there is a signal here
os.execv(sys.executable, [sys.executable, "-m", "llamaforge", *sys.argv[1:]])
"""
COMMANDS = ("check", "list", "chat", "doctor", "parity")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, tiny_gguf: Path, endless_gguf: Path) -> Path:
    """A config folder with models that answer, count for ever and think, and one that is gone."""
    folder = tmp_path_factory.mktemp("cli")
    thinking = write_tiny_gguf(folder / "thinking.gguf", THINKING_ANSWER)
    escaping = write_tiny_gguf(folder / "escaping.gguf", b"A \x1b]0;title\x07 and \xc2\x9b31m colours of mine.")
    forge = LlamaForge(folder)
    files = {"tiny": tiny_gguf, "endless": endless_gguf, "thinking": thinking, "escaping": escaping}
    for name, file in files.items():
        forge.add_model(name, str(file), "llama.cpp", {"n_threads": 1})
    forge.config.save()
    (folder / "settings.yaml").write_text("default_model: tiny\n", "utf-8")
    return folder


def llamaforge(*arguments: object, stdin: str = "", **variables: str) -> subprocess.CompletedProcess[str]:
    """Run the program with its input and output piped."""
    command = [sys.executable, "-m", "llamaforge", *map(str, arguments)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), **variables}
    return subprocess.run(command, input=stdin, env=environment, capture_output=True, text=True, timeout=60)


class Terminal:
    """The other end of a program's terminal."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self.seen = ""

    def wait_for(self, text: str, key: str = "") -> str:
        """Read until a text is there; return what came before and it, which is then gone.

        Args:
            key: is pressed again where nothing comes: Python's input() misses a signal in its first moment.
        """
        deadline = time.monotonic() + PATIENCE
        while text not in self.seen:
            assert time.monotonic() < deadline, f"no {text!r} in {self.seen!r}"
            self.type(key)
            if select.select([self._descriptor], [], [], 0.1)[0]:
                self.seen += self._read()
        before, _, self.seen = self.seen.partition(text)
        return before + text

    def type(self, text: str) -> None:
        os.write(self._descriptor, text.encode())

    def _read(self) -> str:
        try:
            return os.read(self._descriptor, 65_536).decode("utf-8", "replace")
        except OSError as error:  # how Linux says that the program has closed its end
            assert error.errno == errno.EIO, error
            return ""


@contextmanager
def terminal(*arguments: object) -> Iterator[tuple[Terminal, subprocess.Popen[bytes]]]:
    """Run the program in a terminal of its own."""
    ours, theirs = pty.openpty()
    command = [sys.executable, "-c", IN_ITS_TERMINAL, *map(str, arguments)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "TERM": "dumb"}
    process = subprocess.Popen(
        command, stdin=theirs, stdout=theirs, stderr=theirs, env=environment, start_new_session=True
    )
    os.close(theirs)
    try:
        yield Terminal(ours), process
    finally:
        process.kill()
        process.wait()
        os.close(ours)


def test_a_fresh_checkout_answers_in_a_terminal_too() -> None:
    shipped = ("--config", ROOT / "configs")
    checked = llamaforge("check", *shipped)
    assert checked.returncode == 0, checked.stdout
    asked = llamaforge("chat", "guide", *shipped, stdin="What does temperature do?")
    assert asked.stdout == f"{read_texts().topics['temperature'].answer}\n"


def printed(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str, str]:
    code = cli.main([str(argument) for argument in arguments])
    said = capsys.readouterr()
    return code, said.out, said.err


def test_help_names_every_command_in_a_whole_sentence(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = printed(capsys, "--help")
    assert code == 0 and "..." not in out.partition("Commands:")[2]
    assert re.findall(r"^  (\w+) {2,}\S", out, re.MULTILINE) == list(COMMANDS)


@pytest.mark.parametrize("command", [["nonsense"], ["chat"], ["list", "--no-such-flag"], ["parity", "a", "b"]])
def test_wrong_usage_exits_with_2(capsys: pytest.CaptureFixture[str], command: Sequence[str]) -> None:
    code, out, err = printed(capsys, *command)
    assert (code, out) == (2, "") and "Error: " in err


def test_what_needs_no_engine_loads_none(folder: Path) -> None:
    for command in (["--help"], ["list", "--config", str(folder)], ["check", "--config", str(folder)]):
        script = f"import sys; from llamaforge.cli import main; main({command!r})\n"
        script += "print([name for name in ('gradio', 'torch', 'transformers', 'llama_cpp', 'openai', 'rich')"
        script += " if name in sys.modules])"
        assert run_python(script).stdout.splitlines()[-1] == "[]", command


def test_without_typer_the_install_line_is_said() -> None:
    script = "import sys; sys.modules['typer'] = None\nfrom llamaforge.cli import main; sys.exit(main(['list']))"
    done = run_python(script)
    assert done.returncode == 2 and done.stdout == ""
    assert "needs the package typer, which is not installed" in done.stderr


def test_list_says_of_every_model_what_it_is_and_whether_it_can_be_loaded(
    folder: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    code, out, err = printed(capsys, "list", "--config", folder)
    rows = {line.split()[0]: line for line in out.splitlines()}
    assert (code, err) == (0, "") and list(rows) == ["endless", "escaping", "thinking", "tiny"]
    assert rows["tiny"].startswith("tiny (default)  llama.cpp  ") and rows["tiny"].endswith("  Ready to load.")
    assert printed(capsys, "list", "--config", tmp_path) == (0, f"No model is registered in {tmp_path}.\n", "")


def test_the_config_folder_is_found_by_the_environment(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LLAMAFORGE_CONFIG", str(folder))
    assert "tiny (default)" in printed(capsys, "list")[1]


def test_check_finds_nothing_where_all_is_well(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = printed(capsys, "check", "--config", folder)
    assert (code, out) == (0, f"4 models and 0 presets in {folder}: no problem.\n")


def test_check_prints_file_line_and_sentence_and_exits_with_1(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / "gone.yaml").write_text("backend: llama.cpp\npath: gone.gguf\n", "utf-8")
    code, out, _ = printed(capsys, "check", "--config", tmp_path)
    assert code == 1 and out.splitlines() == [
        f"{tmp_path}/models/gone.yaml:2: File not found: gone.gguf. Check the path.",
        f"1 model and 0 presets in {tmp_path}: 1 problem.",
    ]


def test_a_message_that_is_piped_in_is_answered_and_nothing_else_is_piped_out(folder: Path) -> None:
    done = llamaforge("chat", "tiny", "--config", folder, stdin="Hello\n")
    assert (done.stdout, done.returncode) == (f"{DEFAULT_ANSWER}\n", 0)
    loading, loaded, figures = done.stderr.splitlines()
    assert (loading, loaded.split(" ")[0]) == ("Loading tiny …", "tiny:") and "\033" not in done.stderr
    assert re.fullmatch(r"\d+ tokens · [\d.]+ s · first after [\d.]+ s( · [\d.]+ tokens/s)?", figures)


def test_a_message_of_a_flag_is_answered_with_the_parameters_that_are_set(folder: Path) -> None:
    settings = ["--set", "max_tokens=3", "--set", "temperature=0", "--set", "n_ctx=512", "--system", "Be brief."]
    done = llamaforge("chat", "tiny", "--message", "Hello", *settings, "--config", folder)
    assert done.returncode == 0 and 0 < len(done.stdout) < 20
    assert "512 tokens" in done.stderr and "the longest answer is reached" in done.stderr


def test_thoughts_are_told_beside_the_answer(folder: Path) -> None:
    done = llamaforge("chat", "thinking", "--message", "Why?", "--config", folder)
    assert done.stdout == "The answer is **42**.\n"
    assert "The user wants an answer." in done.stderr


def test_a_model_gives_a_terminal_no_commands(folder: Path) -> None:
    done = llamaforge("chat", "escaping", "--message", "Hello", "--config", folder)
    assert done.stdout == "A ]0;title and 31m colours of mine.\n"


def test_a_terminal_that_lacks_characters_ends_no_answer(folder: Path) -> None:
    done = llamaforge("chat", "tiny", "--message", "Hello", "--config", folder, PYTHONIOENCODING="ascii")
    assert done.returncode == 0 and "a llama ?" in done.stdout


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["nobody", "-m", "Hello"], 1, "Unknown model 'nobody'."),
        (["tiny", "-m", " "], 1, "Write a message first."),
        (["tiny", "-m", "x", "--set", "temprature=1"], 2, "Unknown setting 'temprature'. Did you mean 'temperature'?"),
        (["tiny", "-m", "x", "--set", "top_k=many"], 2, "top_k must be a whole number from 0 to 1,000, found 'many'."),
        (["tiny", "-m", "x", "--set", "hot"], 2, "Write a parameter as name=value, such as temperature=0.2"),
    ],
)
def test_what_cannot_be_answered_is_a_sentence(folder: Path, arguments: list[str], code: int, words: str) -> None:
    done = llamaforge("chat", *arguments, "--config", folder)
    assert (done.returncode, done.stdout) == (code, "") and "Traceback" not in done.stderr
    assert words in " ".join(done.stderr.split())


def test_texts_become_values_of_the_schemas_kinds() -> None:
    texts = ["temperature=1", "top_k=7", "f16_kv=off", "stop=a=b", "stop= c", "mmproj=none"]
    assert cli_chat.parameters_of("llama.cpp", texts) == {
        "temperature": 1.0,
        "top_k": 7,
        "f16_kv": False,
        "stop": ["a=b", " c"],
        "mmproj": "none",
    }
    with pytest.raises(ParameterError, match="f16_kv must be true or false, found 'perhaps'"):
        cli_chat.parameters_of("llama.cpp", ["f16_kv=perhaps"])


def test_ctrl_c_stops_the_answer_and_ctrl_d_ends_the_chat(folder: Path) -> None:
    with terminal("chat", "endless", "--config", folder) as (screen, process):
        screen.wait_for("Ctrl-D ends the chat.")
        screen.wait_for("> ")
        screen.type("Count\n")
        screen.wait_for("three four five")
        screen.type("\x03")
        screen.wait_for("stopped")
        screen.wait_for("> ")
        screen.wait_for("Ctrl-D ends the chat.", key="\x03")  # where nothing is written it only says how to end
        screen.wait_for("> ")
        screen.type("Again\n")
        screen.wait_for("one two three")
        screen.type("\x03")
        screen.wait_for("> ")
        screen.type("\x04")
        assert process.wait(PATIENCE) == 0


def test_in_a_terminal_thoughts_are_dim(folder: Path) -> None:
    with terminal("chat", "thinking", "--message", "Why?", "--config", folder) as (screen, _):
        assert "\033[2mThe user" in screen.wait_for("The user")
        screen.wait_for("The answer is **42**.")


def test_ctrl_c_while_a_message_is_answered_ends_with_what_is_written(folder: Path) -> None:
    with terminal("chat", "endless", "--message", "Count", "--config", folder) as (screen, process):
        screen.wait_for("three four five")
        os.killpg(process.pid, signal.SIGINT)
        screen.wait_for("stopped")
        assert process.wait(PATIENCE) == 0


def test_ctrl_c_while_a_model_is_loaded_ends_the_program(tmp_path: Path) -> None:
    forge = LlamaForge(tmp_path)
    forge.add_model("slow", str(write_tiny_hf(tmp_path / "slow")), "huggingface")
    forge.config.save()
    with terminal("chat", "slow", "--config", tmp_path) as (screen, process):
        screen.wait_for("Loading slow …")
        screen.type("\x03")
        assert process.wait(PATIENCE) == 130


def test_figures_say_what_is_known() -> None:
    result = Result("one", "", "stop", Usage(5, 1), 1.5, 0.25, None)
    assert cli_chat.figures(result) == "1 token · 1.5 s · first after 0.25 s"
    unknown = Result("", "", "cancelled", None, 0.04, None, None)
    assert cli_chat.figures(unknown) == "0.0 s · stopped"
