"""No secret is logged, printed, told of an error or shown on the page."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from openai_kit import CANARY
from scripted import ScriptedBackend, run_python
from worker_kit import ask, isolated, result_of

from llamaforge import Config, GenerationError, LlamaForge, LlamaForgeError, ModelError, register_backend
from llamaforge.redaction import HIDDEN, hide_secrets, known_secrets, note
from llamaforge_ui.convert import notice, sentence_for

SECRET = "canary/5e1f & 0c2b+7a9d"
LOUD = """
import asyncio, logging, logging.config, os, sys, threading, traceback, warnings
from pathlib import Path
from llamaforge import LlamaForge
from llamaforge.redaction import quiet_secrets

early = logging.StreamHandler(sys.stderr)
logging.getLogger("early").addHandler(early)
quiet_secrets()
import uvicorn
logging.config.dictConfig(uvicorn.config.LOGGING_CONFIG)
logging.basicConfig(level="DEBUG")
SECRET = os.environ["A_SECRET"]
forge = LlamaForge(Path(sys.argv[1]))
forge.add_model("gpt", "gpt", "openai", {"api_key": "a-key-that-came-later"})


class Url:
    def __str__(self): return f"https://host/?key={SECRET}"


class Odd:
    def __del__(self): raise ValueError(SECRET)


def fail(): raise RuntimeError("failed", SECRET)


async def forgotten(): asyncio.ensure_future(asyncio.sleep(0)).add_done_callback(lambda _: fail())


logging.getLogger("early").warning("early %s %d", SECRET, 1)
logging.getLogger("httpx").info('HTTP Request: %s %s "%s"', "GET", Url(), 200)
logging.getLogger("plugin").error("later a-key-that-came-later")
logging.getLogger("plugin").error("%(key)s of a dict", {"key": SECRET})
logging.getLogger("plugin").error("wrong %d", SECRET)
logging.getLogger("uvicorn.access").info('%s - "%s %s HTTP/%s" %d', "127.0.0.1", "GET", f"/?k={SECRET}", "1.1", 200)
for name in ("uvicorn.error", "plugin"):
    try: fail()
    except RuntimeError: logging.getLogger(name).exception("caught %s", SECRET, stack_info=True)
try: fail()
except RuntimeError: traceback.print_exc()
print("printed", SECRET)
sys.stderr.writelines([f"written {SECRET}\\n"])
warnings.warn(SECRET)
asyncio.run(forgotten())
del (odd := [Odd()])[0]
thread = threading.Thread(target=fail)
thread.start()
thread.join()
fail()
"""


@pytest.fixture(autouse=True)
def secret(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("A_SECRET", SECRET)


def test_what_is_logged_printed_or_not_caught_holds_no_secret(tmp_path: Path) -> None:
    done = run_python(LOUD, tmp_path)
    said = done.stdout + done.stderr
    assert done.returncode == 1
    assert not [form for form in (SECRET, repr(SECRET), "a-key-that-came-later") if form in said]
    for words in (
        f"early {HIDDEN} 1",
        f'GET https://host/?key={HIDDEN} "200"',
        f"later {HIDDEN}",
        f"{HIDDEN} of a dict",
        f"GET /?k={HIDDEN} HTTP/1.1",
        f"caught {HIDDEN}",
        f"printed {HIDDEN}",
        f"written {HIDDEN}",
        f"UserWarning: {HIDDEN}",
        f"ValueError: {HIDDEN}",
        "Exception in thread",
        "Exception in callback",
    ):
        assert words in said, words
    assert said.count(f"RuntimeError: ('failed', '{HIDDEN}')") >= 5


@pytest.mark.parametrize("name", ["OPENAI_API_KEY", "HF_TOKEN", "aws_secret", "LLAMAFORGE_OWNER_PASSWORD", "SSH_KEY"])
def test_a_variable_that_is_named_like_a_secret_is_one(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setenv(name, "Bearer neither-sk-nor-hf")
    assert hide_secrets("got neither-sk-nor-hf") == f"got {HIDDEN}"
    monkeypatch.setenv(name, "short")
    assert hide_secrets("short") == "short"


def test_a_secret_is_found_as_addresses_json_and_html_spell_it() -> None:
    text = "canary%2F5e1f%20%26%200c2b%2B7a9d, canary/5e1f &amp; 0c2b+7a9d"
    assert hide_secrets(text) == f"{HIDDEN}, {HIDDEN}"


def test_names_of_functions_are_no_tokens() -> None:
    text = "hf_hub_download of huggingface_hub, hf_transfer, task-force"
    assert hide_secrets(text) == text


@pytest.mark.parametrize("text", ["  api_key: {}\n", "  api_key: [{}]\n", "  api_key: {}\n  top_p: [\n"])
def test_a_key_in_a_file_is_known_when_the_file_has_been_read(tmp_path: Path, text: str) -> None:
    (tmp_path / "models").mkdir()
    key = f"the-key-of-{tmp_path.name}"
    (tmp_path / "models" / "gpt.yaml").write_text(
        f"backend: openai\npath: gpt\nparameters:\n{text.format(key)}", "utf-8"
    )
    config = Config(tmp_path)
    assert key in known_secrets()
    assert key not in str(config.models["gpt"].problem)


def test_a_key_in_the_settings_is_known(tmp_path: Path) -> None:
    key = f"the-key-of-{tmp_path.name}"
    (tmp_path / "settings.yaml").write_text(f"parameters:\n  api_key: {key}\n", "utf-8")
    Config(tmp_path)
    assert key in known_secrets()


def test_a_line_that_is_no_setting_is_not_quoted(tmp_path: Path) -> None:
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / "gpt.yaml").write_text(
        "backend: openai\npath: gpt\nparameters:\n  api_key = mine\n", "utf-8"
    )
    problem = str(Config(tmp_path).models["gpt"].problem)
    assert problem.endswith("parameters must be lines of 'name: value' set in by two spaces.")


class Telltale(ScriptedBackend):
    def load_model(self, model_path: str, parameters: Any = None) -> None:
        raise OSError(f"cannot open {SECRET}")


def test_an_error_of_somebodys_backend_is_told_without_the_key(tmp_path: Path) -> None:
    register_backend("telltale", Telltale)
    forge = LlamaForge(tmp_path)
    forge.add_model("mine", "nowhere", "telltale")
    with pytest.raises(ModelError) as caught:
        forge.load_model("mine")
    assert str(caught.value) == f"Loading 'mine' failed: OSError: cannot open {HIDDEN}"
    assert SECRET not in f"{forge.status.error}"


def test_the_page_shows_no_secret_in_errors_and_details() -> None:
    error = GenerationError(f"It said {SECRET}.", details=f"line 1\nBearer {CANARY}")
    shown = notice(sentence_for("owner", error), details=error.details)
    assert SECRET not in shown and CANARY not in shown and "0c2b" not in shown
    assert f"It said {HIDDEN}." in shown and f"line 1\n{HIDDEN}" in shown


def test_what_a_worker_says_of_a_key_stays_in_the_worker(tmp_path: Path) -> None:
    note(["the last words", "weights melted"])
    with isolated(tmp_path) as forge:
        forge.load_model("fault")
        result_of(ask(forge, "noisy"))
        crashed, raised = (result_of(ask(forge, mode)).error for mode in ("segv", "raise_at"))
    assert isinstance(crashed, LlamaForgeError) and isinstance(raised, LlamaForgeError)
    assert crashed.details.endswith(f"{HIDDEN} of an engine")
    assert str(raised).endswith(f"ValueError: the {HIDDEN}") and "melted" not in raised.details
