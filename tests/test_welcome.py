"""What an empty chat says: who answers, where it is heard, questions to begin with, and the way to other models."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import gradio as gr
import pytest
import yaml
from scripted import until
from worker_kit import isolated, workers

from llamaforge import LlamaForge
from llamaforge_ui import Access
from llamaforge_ui.guests import Guests
from llamaforge_ui.page import Page
from llamaforge_ui.welcome import WAYS, welcome

MODELS = {
    "plain": {"backend": "echo", "path": "x"},
    "guide": {
        "backend": "echo",
        "path": "x",
        "description": "knows <b>one</b> thing",
        "examples": ["Why & how?", "b"],
    },
    "ours": {"backend": "echo", "path": "x", "guests": False, "examples": ["Whose?"]},
    "service": {"backend": "openai", "path": "gpt", "parameters": {"api_base": "http://127.0.0.1:1/v1"}},
}
ADA = gr.Request(session_hash="ada")


@pytest.fixture
def forge(tmp_path: Path) -> Iterator[LlamaForge]:
    (tmp_path / "models").mkdir()
    for name, settings in MODELS.items():
        (tmp_path / "models" / f"{name}.yaml").write_text(yaml.safe_dump(settings), "utf-8")
    forge = LlamaForge(tmp_path)
    yield forge
    forge.unload_model()


def said(forge: LlamaForge, role: str = "owner") -> str:
    page = Page(forge, Access(public=role == "guest"), Guests(forge), role)  # type: ignore[arg-type]
    return welcome(page, page.conversation(ADA))


def test_without_a_model_the_way_to_one_is_told(forge: LlamaForge) -> None:
    assert "In <b>Models</b>, register a model" in said(forge)
    assert all(f'data-act="register" data-backend="{backend}"' in said(forge) for backend in WAYS)


def test_a_model_that_is_being_loaded_is_waited_for(tmp_path: Path, no_leftovers: None) -> None:
    with isolated(tmp_path / "slow") as forge:
        slow = {"mode": "load_slow", "load_seconds": 1.5}
        loading = threading.Thread(target=forge.load_model, args=["fault", slow])
        loading.start()
        until(workers)
        assert said(forge) == "<h3>Chat with fault</h3><p>It is being loaded.</p>"
        loading.join()
        assert "Write a message below." in said(forge)


def test_a_loaded_model_is_named_with_what_it_says_of_itself(forge: LlamaForge) -> None:
    forge.load_model("guide")
    assert "<h3>Chat with guide</h3><p>knows &lt;b&gt;one&lt;/b&gt; thing</p>" in said(forge)


def test_a_models_examples_are_buttons_and_lead_on_to_models_of_ones_own(forge: LlamaForge) -> None:
    forge.load_model("guide")
    assert '<button type="button" data-act="example">Why &amp; how?</button>' in said(forge)
    assert "register a model of your own" in said(forge)


def test_a_model_without_examples_has_none_and_no_way_to_another(forge: LlamaForge) -> None:
    forge.load_model("plain")
    assert "data-act" not in said(forge)


def test_where_it_is_heard_is_the_truth(forge: LlamaForge) -> None:
    forge.load_model("plain")
    assert "What you write does not leave this computer." in said(forge)
    forge.load_model("service")
    assert "What you write goes to its service." in said(forge)


def test_guests_are_offered_the_examples_and_told_nothing_of_the_owners(forge: LlamaForge) -> None:
    forge.load_model("guide")
    text = said(forge, "guest")
    assert 'data-act="example"' in text
    assert "guide" not in text and "register" not in text


def test_guests_are_offered_nothing_of_a_model_that_they_may_not_use(forge: LlamaForge) -> None:
    forge.load_model("ours")
    assert "data-act" not in said(forge, "guest")


def test_a_service_is_named_as_one_also_where_its_file_is_broken_by_now(forge: LlamaForge, tmp_path: Path) -> None:
    forge.load_model("service")
    (tmp_path / "models" / "service.yaml").write_text("backend: [\n", "utf-8")
    forge.config.reload()
    assert "What you write goes to its service." in said(forge)


def test_a_shared_page_does_not_call_the_computer_yours(forge: LlamaForge) -> None:
    forge.load_model("plain")
    page = Page(forge, Access(public=True), Guests(forge), "owner")
    assert "What you write stays on the computer that runs LlamaForge." in welcome(page, page.conversation(ADA))


def test_a_dozen_questions_are_offered_at_most(forge: LlamaForge) -> None:
    forge.add_model("curious", "x", "echo", examples=[f"Why {number}?" for number in range(99)])
    forge.load_model("curious")
    assert said(forge).count('data-act="example"') == 12


def test_a_chat_with_a_message_has_no_welcome(forge: LlamaForge) -> None:
    forge.load_model("plain")
    page = Page(forge, Access(public=False), Guests(forge), "owner")
    conversation = page.conversation(ADA)
    for _ in conversation.ask("Hello", lambda messages: forge.chat_stream(messages)):
        pass
    assert welcome(page, conversation) == ""
