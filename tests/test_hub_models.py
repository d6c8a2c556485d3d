"""Models of the Hugging Face Hub, and what else a model's file may say of its file: loaded, checked, saved."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from hub_kit import REPO, partial_of, sentence_of
from hub_stand_in import TOKEN, Hub, sha256
from scripted import until
from tiny_gguf import DEFAULT_ANSWER
from tiny_gguf import write_tiny_gguf as write
from worker_kit import SOON, isolated, seconds

from llamaforge import ConfigError, LlamaForge, Model, ModelError, ModelFileError
from llamaforge.backends.llama_cpp import LlamaCppBackend
from llamaforge.config import Config
from llamaforge.worker_backend import _environment

# The llama.cpp backend


@pytest.fixture
def forge(hub_server: Hub, tmp_path: Path) -> Iterator[LlamaForge]:
    made = LlamaForge(tmp_path / "configs")
    yield made
    made.unload_model()


def test_a_model_of_the_hub_is_loaded_and_answers(hub_server: Hub, tiny_in_hub: bytes, forge: LlamaForge) -> None:
    forge.add_model("tiny", REPO, "llama.cpp", {"n_threads": 1}, file="t*.gguf")
    before = forge.card("tiny")
    assert before.facts.items() >= {"Hub": REPO, "In it": "t*.gguf"}.items() and not before.limits
    assert forge.check_model("tiny") is None and hub_server.requests == []
    forge.load_model("tiny")
    assert forge.generate("hi", {"temperature": 0}) == DEFAULT_ANSWER
    hub_server.requests.clear()
    assert forge.card("tiny").facts["Layers"] == "2" and hub_server.requests == []
    assert LlamaCppBackend().memory_needed(f"{REPO}/t*.gguf", {}).weights == len(tiny_in_hub)  # type: ignore[union-attr]


def test_only_a_model_of_the_hub_is_given_the_token() -> None:
    backend = LlamaCppBackend()
    assert (backend.secrets("owner/name"), backend.secrets("/m/x.gguf")) == (("HF_TOKEN",), ())
    assert backend.memory_needed("owner/name", {}) is None


def test_a_damaged_file_of_the_hub_is_known_before_the_running_model_goes(
    hub_server: Hub, tiny_in_hub: bytes, forge: LlamaForge
) -> None:
    hub_server.files["forge/bad"] = {"bad.gguf": b"<html>no model</html>"}
    forge.add_model("tiny", REPO, "llama.cpp", {"n_threads": 1})
    forge.add_model("bad", "forge/bad", "llama.cpp")
    assert "bad.gguf is a web page" in sentence_of(lambda: forge.load_model("bad"))
    forge.load_model("tiny")
    assert "bad.gguf is a web page" in sentence_of(lambda: forge.load_model("bad"))
    assert (forge.status.state, forge.status.model) == ("ready", "tiny")


def test_a_download_in_this_process_tells_its_progress_and_ends_within_a_second_of_stop(
    hub_server: Hub, tiny_in_hub: bytes
) -> None:
    hub_server.go_on.clear()
    backend = LlamaCppBackend()
    failures: list[Exception] = []

    def load() -> None:
        try:
            backend.load_model(REPO)
        except ModelError as error:
            failures.append(error)

    loading = threading.Thread(target=load)
    loading.start()
    until(lambda: (progress := backend.load_progress()) and progress.share)
    assert backend.load_progress().doing == "downloading"  # type: ignore[union-attr]
    backend.stop()
    assert seconds(loading.join) < 1
    assert str(failures[0]) == "Loading was given up." and backend.load_progress() is None


def test_a_download_in_the_worker_is_cancelled_by_unload_and_goes_on_at_the_next_load(
    hub_server: Hub, tiny_in_hub: bytes, tmp_path: Path
) -> None:
    hub_server.go_on.clear()
    with isolated(tmp_path) as forge:
        forge.add_model("tiny", REPO, "llama.cpp", {"n_threads": 1})
        loading = threading.Thread(target=lambda: sentence_of(lambda: forge.load_model("tiny")))
        loading.start()
        until(lambda: (progress := forge.load_progress) and progress.share)
        assert forge.load_progress.doing == "downloading"  # type: ignore[union-attr]
        assert [model.name for model in forge.models()] == ["fault", "tiny"]  # nothing else waits for it
        assert seconds(forge.unload_model) < SOON
        loading.join()
        assert forge.status.state == "empty" and partial_of(tiny_in_hub).stat().st_size > 0
        hub_server.go_on.set()
        forge.load_model("tiny")
        assert forge.generate("hi", {"temperature": 0}) == DEFAULT_ANSWER
    assert "range" in hub_server.asked("GET", "/content")[-1]


def test_the_worker_is_told_how_to_reach_the_hub_but_no_password(monkeypatch: pytest.MonkeyPatch) -> None:
    told = {"HF_HOME": "/hf", "https_proxy": "http://proxy:80", "NO_PROXY": "localhost", "SSL_CERT_FILE": "/c.pem"}
    kept = {"HTTP_PROXY": "http://me:secret@proxy", "HF_TOKEN": TOKEN, "HF_ENDPOINT": "https://me:secret@hub"}
    for name, value in (told | kept).items():
        monkeypatch.setenv(name, value)
    environment = _environment()
    assert environment.items() >= told.items() and not kept.keys() & environment.keys()
    assert _environment(["HF_TOKEN"])["HF_TOKEN"] == TOKEN


# The checksum


def test_a_file_that_differs_from_the_expected_one_is_not_loaded(forge: LlamaForge, tiny_gguf: Path) -> None:
    right = sha256(tiny_gguf.read_bytes())
    forge.add_model("right", str(tiny_gguf), "llama.cpp", {"n_threads": 1}, sha256=right.upper())
    forge.add_model("wrong", str(tiny_gguf), "llama.cpp", {"n_threads": 1}, sha256="0" * 64)
    forge.load_model("right")
    assert forge.generate("hi", {"temperature": 0}) == DEFAULT_ANSWER
    sentence = sentence_of(lambda: forge.load_model("wrong"), ModelFileError)
    assert sentence == "The file differs from the expected one. Do not use it; download it again."


def test_a_checksum_is_computed_once_for_each_state_of_a_file(forge: LlamaForge, tmp_path: Path) -> None:
    path = write(tmp_path / "model.gguf", width=64, layers=1)
    forge.add_model("model", str(path), "llama.cpp", {"n_threads": 1}, sha256=sha256(path.read_bytes()))
    forge.load_model("model")
    forge.load_model("model")
    write(path, width=64, layers=2)
    sentence_of(lambda: forge.load_model("model"), ModelFileError)


def test_a_checksum_holds_for_a_model_of_the_hub_in_a_worker(
    hub_server: Hub, tiny_in_hub: bytes, tmp_path: Path
) -> None:
    with isolated(tmp_path) as forge:
        forge.add_model("tiny", REPO, "llama.cpp", sha256="0" * 64)
        assert sentence_of(lambda: forge.load_model("tiny"), ModelFileError).startswith("The file differs from the")


# The model's file


def test_file_and_checksum_are_saved_and_read_again(tmp_path: Path) -> None:
    config = Config(tmp_path / "configs")
    config.add(Model("a", "llama.cpp", REPO, file_in_path="*Q4.gguf", sha256="ab" * 32))
    config.save()
    text = config.file_of("a").read_text("utf-8")
    assert 'file: "*Q4.gguf"' in text.replace("'", '"') and f"sha256: {'ab' * 32}" in text
    read = Config(tmp_path / "configs").models["a"]
    assert (read.file_in_path, read.sha256, read.problem) == ("*Q4.gguf", "ab" * 32, None)
    config.add(Model("a", "llama.cpp", REPO))
    config.save()
    assert "file:" not in config.file_of("a").read_text("utf-8")


def test_file_is_joined_to_a_repository_or_to_a_folder(tmp_path: Path) -> None:
    config = Config(tmp_path / "configs")
    (tmp_path / "models").mkdir()
    for path, joined in ((REPO, f"{REPO}/a.gguf"), ("models", str(tmp_path / "models" / "a.gguf"))):
        assert config.model_path(Model("a", "llama.cpp", path, file_in_path="a.gguf")) == joined
    assert config.model_path(Model("a", "llama.cpp", "x/y.GGUF")) == str(tmp_path / "x" / "y.GGUF")


@pytest.mark.parametrize(
    ("backend", "line", "sentence"),
    [
        ("llama.cpp", "file: ../x.gguf", "file must be a file's name or pattern inside path"),
        ("llama.cpp", "file: 3", "file must be a text, found 3."),
        ("llama.cpp", "fiel: x.gguf", "Did you mean 'file'?"),
        ("llama.cpp", "sha256: abc", "sha256 must be 64 digits of 0-9 and a-f, found 'abc'."),
        ("echo", "file: x.gguf", "This backend has no use for 'file'. Take the line out."),
        ("echo", f"sha256: {'a' * 64}", "This backend has no use for 'sha256'. Take the line out."),
    ],
)
def test_a_wrong_file_or_checksum_is_told_with_its_line(
    tmp_path: Path, backend: str, line: str, sentence: str
) -> None:
    models = tmp_path / "configs" / "models"
    models.mkdir(parents=True)
    (models / "a.yaml").write_text(f"backend: {backend}\npath: owner/name\n{line}\n", "utf-8")
    problem = Config(tmp_path / "configs").models["a"].problem
    assert sentence in str(problem) and "a.yaml line 3" in str(problem)


def test_a_wrong_file_or_checksum_given_in_code_is_refused(tmp_path: Path) -> None:
    forge = LlamaForge(tmp_path / "configs")
    for wrong in ({"file": "a/../b"}, {"sha256": "abc"}):
        with pytest.raises(ConfigError):
            forge.add_model("a", REPO, "llama.cpp", **wrong)  # type: ignore[arg-type]
    assert forge.models() == []


def test_of_files_on_disk_only_what_can_be_loaded_is_offered(tmp_path: Path) -> None:
    folder = tmp_path / "models"
    folder.mkdir()
    for name in ("a-00001-of-00002.gguf", "a-00002-of-00002.gguf", "B.GGUF", "mmproj-b.gguf", "c.gguf", "c.txt"):
        (folder / name).touch()
    (tmp_path / "configs").mkdir()
    (tmp_path / "configs" / "settings.yaml").write_text("models_dir: models\n", "utf-8")
    config = Config(tmp_path / "configs")
    assert [file.name for file in config.found_files()] == ["B.GGUF", "a-00001-of-00002.gguf", "c.gguf"]
    config.add(Model("c", "llama.cpp", "models", file_in_path="c.gguf"))
    assert [file.name for file in config.found_files()] == ["B.GGUF", "a-00001-of-00002.gguf"]
