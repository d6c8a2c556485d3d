"""Start LlamaForge's page: flags, the library, the page, and a clean end."""

from __future__ import annotations

import argparse
import errno
import gc
import os
import signal
import socket
import sys
import tempfile
import threading
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

if TYPE_CHECKING:
    from llamaforge import LlamaForge
    from llamaforge_ui import Address, History, Pages

HERE = Path(__file__).parent
PORT = 7860
PORTS_TRIED = 20
CLOSING_SECONDS = 1.5
OWNER_PASSWORD = "LLAMAFORGE_OWNER_PASSWORD"


def parse_flags(arguments: list[str] | None = None) -> argparse.Namespace:
    """Return the flags of the command line."""
    parser = argparse.ArgumentParser(prog="app.py", description="Chat with any language model from one web page.")
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on; any but a loopback one is public")
    parser.add_argument("--port", type=_port, help=f"port to listen on (default: {PORT}, then the next free one)")
    parser.add_argument("--share", action="store_true", help="make a public Gradio link: guests may chat, no more")
    parser.add_argument("--config", type=Path, metavar="DIR", help="settings and models (default: configs/)")
    parser.add_argument("--data", type=Path, metavar="DIR", help="conversations and caches (default: the user's own)")
    parser.add_argument(
        "--allow-remote-code",
        action="store_true",
        help="let models run their own Python code where their file says trust_remote_code: true; never when shared",
    )
    parser.add_argument("--force", action="store_true", help="share although something speaks against it")
    parser.add_argument("--model", metavar="NAME", help="load this model instead of default_model")
    return parser.parse_args(arguments)


def main(arguments: list[str] | None = None) -> int:
    """Run the page until it is told to end; return the exit code."""
    flags = parse_flags(arguments)
    gc.disable()  # imports throw nothing away, and looking for it takes a tenth of the start
    _take_gradio_variables_away(flags.data)
    _do_without_a_disk()
    end = threading.Event()
    for name in (signal.SIGINT, signal.SIGTERM):
        signal.signal(name, lambda *_: end.set())
    if os.environ.get("SPACE_ID"):
        flags.host, flags.port = "0.0.0.0", PORT
    try:
        flags.port = _free_port(flags.host, flags.port)
    except OSError as error:
        return _refuse(str(error))

    from llamaforge import LlamaForge, LlamaForgeError
    from llamaforge.redaction import quiet_secrets

    quiet_secrets()
    folder = flags.config or os.environ.get("LLAMAFORGE_CONFIG") or HERE / "configs"
    forge = LlamaForge(folder, isolate=True, allow_remote_code=flags.allow_remote_code)
    _tell_plugins(forge)
    first = flags.model or forge.config.settings.default_model
    try:
        if flags.model:
            forge.model(flags.model)
    except LlamaForgeError as error:
        return _refuse(str(error))
    pages = _launch(forge, flags, first)
    if pages is None:
        return 2
    if first:
        threading.Thread(target=_load, args=(forge, first), name="first-load", daemon=True).start()
    end.wait()
    print("Stopping …", flush=True)
    pages.close()  # what is being written is kept as far as it is
    forge.unload_model()
    # An open page holds its connection; nobody waits for it longer than this.
    closing = threading.Thread(target=pages.front.close, kwargs={"verbose": False}, daemon=True)
    closing.start()
    closing.join(CLOSING_SECONDS)
    print("Stopped.", flush=True)
    return 0


def _launch(forge: LlamaForge, flags: argparse.Namespace, first: str | None) -> Pages | None:
    """Start the page; None where it cannot be started, or should not be shared as it is."""
    from llamaforge.packages import outdated

    if sentence := outdated("gradio"):
        _refuse(sentence)
        return None
    try:
        import llamaforge_ui as ui
    except ImportError as error:
        _refuse(f"The page needs packages that are not installed ({error.name}). Run: pip install -r requirements.txt")
        return None
    gc.freeze()  # what is imported stays: no later collection holds up an answer to look at it
    gc.enable()
    public = ui.is_public(flags.host, flags.share)
    try:
        passphrase, said = _passphrase(public)
    except ui.WeakPassphrase as error:
        _refuse(str(error))
        return None
    if public and not _may_be_shared(forge, flags, first):
        return None
    access = ui.Access(public, ui.OwnerLogin(passphrase) if passphrase is not None else None)
    if public:  # a stranger who finds a hole must not find these open
        forge.allow_remote_code = forge.allow_literal_keys = False
    pages = ui.build_pages(forge, access, _history(flags.data))
    hosts = ui.Hosts.of(access, forge.config.settings.allowed_hosts)
    site = ui.Site(access, hosts, pages.owner, pages.routes)
    _app, here, shared = pages.front.launch(**ui.launch_options(flags.host, flags.port, share=flags.share, site=site))
    if shared:
        hosts.names.add(urlsplit(shared).hostname or "")
    elif flags.share:
        print(f"No share link could be made. LlamaForge still runs at {here}")
    address = _address_of(flags, here, shared, public)
    pages.guests.address = address.others or ""
    print(ui.announcement(address, forge.config.settings.guests, said, public=public), flush=True)
    return pages


def _history(data: Path | None) -> History | None:
    """Open the conversations; None, and a sentence, where they can only be kept in memory."""
    from llamaforge.config import data_folder
    from llamaforge_ui import FILE_NAME, History, HistoryError

    try:
        return History(data_folder(data) / FILE_NAME)
    except HistoryError as error:
        print(f"{error} Chats are kept in memory only, until this program ends.")
        return None


def _address_of(flags: argparse.Namespace, here: str, shared: str | None, public: bool) -> Address:
    from llamaforge_ui import Address

    if "SPACE_ID" in os.environ and (name := os.environ.get("SPACE_HOST")):
        return Address(f"https://{name}", f"https://{name}", share=False)
    others = shared or (_address_for_others(flags) if public else None)
    return Address(here, others, share=bool(shared))


def _may_be_shared(forge: LlamaForge, flags: argparse.Namespace, first: str | None) -> bool:
    """Tell what speaks against sharing; something red does, unless it is forced."""
    from llamaforge_ui import findings

    found = findings(forge, first, remote_code=flags.allow_remote_code)
    for finding in found:
        print(f"{'STOP' if finding.level == 'red' else 'Note'}: {finding.text}")
    if all(finding.level != "red" for finding in found) or flags.force:
        return True
    _refuse("Not shared. Mend what is marked STOP, or start with --force.")
    return False


def _passphrase(public: bool) -> tuple[str | None, str | None]:
    """Return the owner's passphrase, and what the terminal says of it; None where nobody needs one or can have one."""
    from llamaforge_ui import checked_passphrase, new_passphrase

    chosen = os.environ.get(OWNER_PASSWORD)
    if chosen is not None:
        return checked_passphrase(chosen), f"what {OWNER_PASSWORD} holds"
    # What is no terminal is a log, where a passphrase would stay and be read.
    if public and "SPACE_ID" not in os.environ and sys.stdout.isatty():
        made_up = new_passphrase()
        return made_up, made_up
    return None, None


def _address_for_others(flags: argparse.Namespace) -> str:
    """Return the address that other computers of this network reach the page by."""
    host = flags.host
    if host in ("0.0.0.0", "::"):
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
            try:
                probe.connect(("192.0.2.1", 9))  # nothing is sent: it only chooses the network card
                host = probe.getsockname()[0]
            except OSError:
                host = socket.gethostname()  # this computer is in no network
    return f"http://{f'[{host}]' if ':' in host else host}:{flags.port}"


def _tell_plugins(forge: LlamaForge) -> None:
    """Name what runs with the rights of the person who started this, and what could not."""
    problems = forge.config.plugin_problems
    if loaded := [entry.name for entry in forge.config.settings.plugins if entry.name not in problems]:
        print(f"Plugins: {', '.join(loaded)}")
    for problem in problems.values():
        print(problem)


def _load(forge: LlamaForge, name: str) -> None:
    from llamaforge import LlamaForgeError

    try:
        forge.load_model(name)
    except LlamaForgeError as error:  # the page shows it too, with what to do
        print(f"{name} was not loaded: {error}", flush=True)


def _take_gradio_variables_away(data: Path | None) -> None:
    """Nothing in the environment may open the host, share the page or run code: what Gradio needs, it is told."""
    for name in [name for name in os.environ if name.startswith("GRADIO_")]:
        del os.environ[name]
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
    if folder := data or os.environ.get("LLAMAFORGE_DATA"):
        os.environ["GRADIO_TEMP_DIR"] = str(Path(folder).expanduser() / "cache")


def _do_without_a_disk() -> None:
    """Go on where no file can be written, on a full disk say: what is imported asks for a temporary folder."""
    try:
        tempfile.gettempdir()
    except OSError:
        tempfile.tempdir = os.environ.get("TMPDIR") or os.environ.get("TEMP") or "/tmp"
        print("No file can be written on this computer (is its disk full?). You can chat; nothing can be saved.")


def _port(text: str) -> int:
    if not text.isdecimal() or not 1 <= int(text) <= 65_535:
        raise argparse.ArgumentTypeError(f"a port is a number from 1 to 65535, found {text!r}")
    return int(text)


def _free_port(host: str, asked: int | None) -> int:
    """Return the port to listen on: the one that was asked for, else the usual one or the next free one.

    Raises:
        OSError: there is none; its text is a sentence.
    """
    for port in [asked] if asked is not None else range(PORT, PORT + PORTS_TRIED):
        try:
            _try_port(host, port)
        except PermissionError as error:
            raise OSError(f"Port {port} needs the rights of an administrator. Use --port {PORT}.") from error
        except OSError as error:
            if error.errno == errno.EADDRINUSE:
                continue
            raise OSError(f"This computer has no address {host!r}. Use --host 127.0.0.1.") from error
        if asked is None and port != PORT:
            print(f"Port {PORT} is used by another program, so this is port {port}.")
        return port
    if asked is None:
        raise OSError(f"Ports {PORT} to {PORT + PORTS_TRIED - 1} are all used by other programs. Use --port.")
    raise OSError(
        f"Port {asked} is used by another program (maybe LlamaForge is already running). Use --port {asked + 1}."
    )


def _try_port(host: str, port: int) -> None:
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        probe.bind((host, port))


def _refuse(sentence: str) -> int:
    print(sentence, file=sys.stderr)
    return 2


if __name__ == "__main__":
    sys.exit(main())
