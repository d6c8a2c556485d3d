"""The commands of the command line: flags in, sentences out; what they tell is found out elsewhere."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from . import cli_chat, config_check, parity
from .doctor import examine
from .errors import LlamaForgeError, ParameterError
from .forge import LlamaForge
from .types import Message

INTERRUPTED = 130  # what a shell says of a program that Ctrl-C ended

ConfigFolder = Annotated[
    Path | None,
    typer.Option(
        "--config", metavar="DIR", help="Settings and models; else $LLAMAFORGE_CONFIG, ./configs or your own."
    ),
]
DataFolder = Annotated[
    Path | None,
    typer.Option("--data", metavar="DIR", help="Chats and caches; else $LLAMAFORGE_DATA or your own."),
]
Name = Annotated[str, typer.Argument(metavar="MODEL", help="A registered model.", show_default=False)]


def run(arguments: list[str] | None) -> int:
    """Run the command that the arguments name and return its exit code."""
    for stream in (sys.stdin, sys.stdout, sys.stderr):
        if reconfigure := getattr(stream, "reconfigure", None):
            reconfigure(errors="replace")  # a terminal that lacks a character must not end an answer
    try:
        _program()(arguments, prog_name="llamaforge")
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else int(end.code is not None)
    except LlamaForgeError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


def _program() -> typer.Typer:
    program = typer.Typer(
        help="Chat with any language model: GGUF files, Hugging Face models, OpenAI-compatible services.",
        epilog="Exit codes: 0 all is well, 1 a problem was found, 2 wrong usage.",
        add_completion=False,
        no_args_is_help=True,
        rich_markup_mode=None,
        pretty_exceptions_enable=False,
    )
    for name, command in (("check", check), ("list", list_models), ("chat", chat), ("doctor", doctor)):
        program.command(name)(command)
    program.command("parity")(compare)
    return program


def check(config: ConfigFolder = None) -> None:
    """Check the config folder: each problem with its file and line.

    Of each model it checks the parameters, the file or folder, the packages that it needs and the keys.
    """
    forge = LlamaForge(config)
    found = config_check.findings(forge)
    for finding in found:
        print(finding)
    problems = sum(not finding.is_note for finding in found)
    models, presets = len(forge.config.models), len(forge.config.presets)
    counted = f"{_count(models, 'model')} and {_count(presets, 'preset')} in {forge.config.folder}"
    print(f"{counted}: {_count(problems, 'problem') if problems else 'no problem'}.")
    raise typer.Exit(1 if problems else 0)


def list_models(config: ConfigFolder = None) -> None:
    """List the registered models: name, backend, state, path."""
    forge = LlamaForge(config)
    models = forge.models()
    if not models:
        print(f"No model is registered in {forge.config.folder}.")
        return
    default = forge.config.settings.default_model
    rows = [
        (f"{model.name} (default)" if model.name == default else model.name, model.backend or "?", model.path or "?")
        for model in models
    ]
    widths = [max(len(row[column]) for row in rows) for column in range(3)]
    for model, row in zip(models, rows, strict=True):
        cells = "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True))
        print(f"{cells}  {config_check.state_of(forge, model)}")


def chat(
    model: Name,
    message: Annotated[str | None, typer.Option("--message", "-m", help="Ask this one and end.")] = None,
    system: Annotated[str | None, typer.Option("--system", "-s", help="What the model is told first.")] = None,
    settings: Annotated[
        list[str] | None, typer.Option("--set", metavar="NAME=VALUE", help="A parameter; may be given often.")
    ] = None,
    allow_remote_code: Annotated[
        bool, typer.Option("--allow-remote-code", help="Let the model run its own Python code, if its file says so.")
    ] = False,
    config: ConfigFolder = None,
) -> None:
    """Chat in the terminal. Ctrl-C stops an answer, Ctrl-D ends the chat; what is piped in is one message."""
    forge = LlamaForge(config, isolate=True, allow_remote_code=allow_remote_code)
    registered = forge.model(model)
    if registered.problem is not None:
        raise registered.problem
    try:
        parameters = cli_chat.parameters_of(registered.backend, settings or [])
    except ParameterError as error:
        raise typer.BadParameter(str(error), param_hint="--set") from error
    if message is None and not sys.stdin.isatty():
        message = sys.stdin.read().removesuffix("\n")
    told = [Message("system", system)] if system else []
    try:
        cli_chat.open_model(forge, model, parameters)
        if message is None:
            cli_chat.converse(forge, told)
        elif not cli_chat.ask(forge, [*told, Message("user", message)]):
            raise typer.Exit(1)
    except KeyboardInterrupt:
        raise typer.Exit(INTERRUPTED) from None
    finally:
        forge.unload_model()


def doctor(config: ConfigFolder = None, data: DataFolder = None) -> None:
    """Tell what is installed, what is missing and how to install it.

    For the engines also: which devices their builds can use, and the line that builds llama.cpp for the GPU found.
    """
    found = examine(config, data)
    for finding in found:
        print(finding)
    raise typer.Exit(int(any(finding.line for finding in found) or any(finding.is_problem for finding in found)))


def compare(
    left: Annotated[str, typer.Argument(metavar="A", help="A registered model.", show_default=False)],
    right: Annotated[str, typer.Argument(metavar="B", help="Another one.", show_default=False)],
    prompt: Annotated[str, typer.Option("--prompt", help="The message that both answer.", show_default=False)],
    tokens: Annotated[int, typer.Option("--tokens", min=1, help="Longest answer in tokens.")] = parity.TOKENS,
    exact: Annotated[bool, typer.Option("--exact", help="Load both with as much precision as there is.")] = False,
    config: ConfigFolder = None,
) -> None:
    """Tell whether two models say the same, and if not, why.

    They differ in the chat template, in the tokenizer, or in the numbers (quantisation or precision).
    """
    report = parity.compare(LlamaForge(config), left, right, prompt, tokens=tokens, exact=exact)
    print("\n".join(parity.lines_of(report)))
    raise typer.Exit(int(report.verdict != "same"))


def _count(number: int, what: str) -> str:
    return f"{number:,} {what}{'' if number == 1 else 's'}"
