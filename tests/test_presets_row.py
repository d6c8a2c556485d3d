"""The Parameters tab's handlers: what presets do to a chat's values, and what each control says of its value."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gradio as gr
import pytest
from tiny_gguf import write_tiny_gguf
from tiny_hf import write_tiny_hf

from llamaforge import LlamaForge
from llamaforge_ui import Access
from llamaforge_ui.guests import Guests
from llamaforge_ui.model_bar import build_model_bar
from llamaforge_ui.page import Page
from llamaforge_ui.parameters_tab import build_parameters_tab, draw_controls

# Gradio leaves the event loops that it makes for itself to the garbage collector.
pytestmark = [
    pytest.mark.filterwarnings("ignore:unclosed (event loop|<socket):ResourceWarning"),
    pytest.mark.usefixtures("no_leftovers"),
]

CALM = {"temperature": 0.3, "top_k": 7}
ADA = gr.Request(session_hash="ada")


class Tab:
    """The Parameters tab of one page; its handlers are called as Gradio does, parts are known by their ids."""

    def __init__(self, forge: LlamaForge) -> None:
        self.page = Page(forge, Access(public=False), Guests(forge), "owner")
        with gr.Blocks(analytics_enabled=False) as self.blocks:
            build_parameters_tab(self.page, build_model_bar(self.page))
        self.state: dict[Any, Any] = {}

    @property
    def chosen(self) -> dict[str, Any]:
        return self.page.conversation(ADA).parameters.get("tiny", {})

    @property
    def origins(self) -> dict[str, str]:
        return self.page.conversation(ADA).origins.get("tiny", {})

    def press(self, handler: str, model: str | None = "tiny", **fields: str | None) -> str:
        """Call a handler and return the sentence that it shows; states are kept for the next call."""
        fn = next(fn.fn for fn in self.blocks.fns.values() if fn.name == handler)
        filled = {"model-select": model} | {f"preset-{part}": value for part, value in fields.items()}
        values = {block: getattr(block, "value", None) for block in self.blocks.blocks.values()} | self.state
        values |= {block: filled[block.elem_id] for block in values if block.elem_id in filled}
        updates = fn(values, request=ADA)
        self.state |= {block: value for block, value in updates.items() if isinstance(block, gr.State)}
        self.drawn_anew = any(isinstance(block, gr.State) and type(block.value) is int for block in updates)
        return next(value for block, value in updates.items() if block.elem_id == "parameters-notice")

    def controls(self, model: str = "tiny") -> dict[str, Any]:
        """Draw the controls and return them by their parameters' names."""
        conversation = self.page.conversation(ADA)
        with gr.Blocks(analytics_enabled=False) as self.drawn:
            chosen, origins = conversation.parameters.get(model, {}), conversation.origins.get(model, {})
            draw_controls(self.page, model, chosen, gr.HTML(), origins)
        ids = {block.elem_id: block for block in self.drawn.blocks.values() if block.elem_id}
        return {name.removeprefix("param-"): block for name, block in ids.items() if name.startswith("param-")}

    def type(self, name: str, value: Any) -> dict[str, Any]:
        """Type a value into a control, or leave it as it is; return how the control looks then."""
        control = self.controls()[name]
        fn = next(fn.fn for fn in self.drawn.fns.values() if control in fn.inputs)
        return fn(value, request=ADA)[control]


@pytest.fixture
def tab(tmp_path: Path) -> Tab:
    """A tab with the model tiny, whose file and settings set something, and the preset calm."""
    path = write_tiny_gguf(tmp_path / "tiny.gguf", metadata={"general.sampling.min_p": 0.1})
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / "tiny.yaml").write_text(
        f"backend: llama.cpp\npath: {path}\nparameters:\n  temperature: 0.9\n  stop: [END]\n", "utf-8"
    )
    (tmp_path / "settings.yaml").write_text("parameters:\n  temperature: 0.5\n  top_p: 0.8\n", "utf-8")
    forge = LlamaForge(tmp_path)
    forge.config.save_preset("calm", CALM)
    return Tab(forge)


def preset(tab: Tab, name: str) -> Path:
    return tab.page.forge.config.presets_folder / f"{name}.yaml"


def says(tab: Tab, name: str, model: str = "tiny") -> str:
    """Return what a control says of where its value comes from."""
    info: str = tab.controls(model)[name].info
    return info[info.index("Set by") if "Set by" in info else info.index("Not set") :]


# Apply


def test_a_preset_holds_for_the_chat_at_once(tab: Tab) -> None:
    said = tab.press("apply_preset", select="calm")
    assert "Applied preset calm: temperature 0.3, top_k 7." in said and tab.drawn_anew
    assert tab.page.overrides(ADA, "tiny", "generate") == CALM
    assert tab.origins == {"temperature": "preset calm", "top_k": "preset calm"}
    assert tab.page.conversation(gr.Request(session_hash="bob")).parameters == {}


def test_of_two_presets_the_second_alone_holds(tab: Tab) -> None:
    tab.page.forge.config.save_preset("long", {"max_tokens": 99})
    tab.page.set_parameters(ADA, "tiny", {"seed": 1})
    for name in ("calm", "long"):
        tab.press("apply_preset", select=name)
    assert tab.chosen == {"seed": 1, "max_tokens": 99} and tab.origins == {"max_tokens": "preset long"}


@pytest.mark.parametrize(
    ("model", "name", "words"),
    [
        (None, "calm", "Choose a model first."),
        ("tiny", None, "Choose a preset first."),
        ("tiny", "gone", "Not applied. Unknown preset &#x27;gone&#x27;. Known: calm."),
        ("tiny", "broken", "Not applied. presets/broken.yaml line 1: top_k must be a whole number from 0 to 1,000"),
    ],
    ids=["no model", "no preset", "gone", "broken"],
)
def test_what_cannot_be_applied_is_a_sentence(tab: Tab, model: str | None, name: str | None, words: str) -> None:
    if name == "broken":
        preset(tab, "broken").write_text("top_k: many\n", "utf-8")
        tab.page.forge.config.reload()
    assert words in tab.press("apply_preset", model, select=name)
    assert not tab.chosen and not tab.origins and not tab.drawn_anew


def test_what_a_model_does_not_take_is_told_by_its_reason(tab: Tab, tmp_path: Path) -> None:
    tab.page.forge.add_model("tiny", str(tmp_path), "huggingface")
    tab.page.forge.config.save_preset("calm", CALM | {"presence_penalty": 0.5, "frequency_penalty": 0.5})
    reason = "(transformers has no such penalty; use repeat_penalty)"
    said = tab.press("apply_preset", select="calm")
    assert f"top_k 7. Left out: presence_penalty, frequency_penalty {reason}." in said
    assert tab.chosen == CALM


# Save and Delete


def test_only_what_is_set_here_for_answers_is_saved(tab: Tab) -> None:
    tab.page.set_parameters(ADA, "tiny", {"n_ctx": 512, "max_tokens": 9, "stop": ["a", "b"], "seed": None})
    assert "Saved as preset mine: max_tokens 9, stop &#x27;a&#x27;, &#x27;b&#x27;." in tab.press(
        "save_preset", name=" mine "
    )
    assert tab.page.forge.config.presets["mine"].parameters == {"max_tokens": 9, "stop": ["a", "b"]}


@pytest.mark.parametrize(
    ("values", "name", "words"),
    [
        ({"seed": 1}, "", "Write a name for the preset first."),
        ({"n_ctx": 512, "seed": None}, "mine", "Nothing to save: set a parameter of answers first."),
        ({"seed": 1}, "a/b", "Not saved; your values are still here. Names may use letters"),
        (
            {"temperature": 9},
            "mine",
            "Not saved; your values are still here. temperature must be a number from 0 to 2",
        ),
    ],
    ids=["no name", "nothing set", "no name of a file", "wrong value"],
)
def test_what_cannot_be_saved_is_a_sentence(tab: Tab, values: dict[str, Any], name: str, words: str) -> None:
    tab.page.set_parameters(ADA, "tiny", values)
    assert words in tab.press("save_preset", name=name)
    assert list(tab.page.forge.config.presets) == ["calm"] and tab.chosen == values


def test_a_preset_is_replaced_at_the_second_press(tab: Tab) -> None:
    tab.page.set_parameters(ADA, "tiny", {"seed": 1})
    assert "There is a preset calm already. Save again to replace it" in tab.press("save_preset", name="calm")
    assert "Saved as preset other" in tab.press("save_preset", name="other")
    assert "There is a preset calm already." in tab.press("save_preset", name="calm"), "it was not asked just before"
    assert "Saved as preset calm: seed 1." in tab.press("save_preset", name="calm")


def test_a_preset_that_changed_after_the_question_is_asked_for_again(tab: Tab) -> None:
    tab.page.set_parameters(ADA, "tiny", {"seed": 1})
    tab.press("save_preset", name="calm")
    preset(tab, "calm").write_text("top_p: 0.5\n", "utf-8")
    assert "There is a preset calm already." in tab.press("save_preset", name="calm")
    assert preset(tab, "calm").read_text("utf-8") == "top_p: 0.5\n"


def test_a_deleted_preset_leaves_what_it_set(tab: Tab) -> None:
    tab.press("apply_preset", select="calm")
    assert "Deleted preset calm." in tab.press("delete_preset", select="calm")
    assert tab.page.forge.config.presets == {} and tab.chosen == CALM
    assert "Unknown preset" in tab.press("delete_preset", select="calm")
    assert "Choose a preset first." in tab.press("delete_preset")


# Where a value comes from


def test_each_control_says_where_its_value_comes_from(tab: Tab) -> None:
    tab.page.set_parameters(ADA, "tiny", {"top_k": 7}, "preset calm")
    tab.page.set_parameters(ADA, "tiny", {"temperature": 0.1, "stop": ["a"]})
    assert {name: says(tab, name) for name in ("temperature", "top_p", "top_k", "min_p", "n_ctx", "use_mmap")} == {
        "temperature": "Set by this chat (tiny.yaml line 4 says 0.9).",
        "top_p": "Set by settings.yaml line 3.",
        "top_k": "Set by preset calm.",
        "min_p": "Not set: 0.1 is used (the sampling settings in its GGUF file).",
        "n_ctx": "Not set: 2048 is used (the model itself).",
        "use_mmap": "Not set: on is used (the engine's default).",
    }
    assert says(tab, "stop") == "Set by this chat (tiny.yaml line 5 says otherwise). One a line."


def test_a_models_own_recommendation_is_greyed(tab: Tab, tmp_path: Path) -> None:
    published = write_tiny_hf(tmp_path / "hf", generation={"do_sample": True, "temperature": 0.6})
    tab.page.forge.config.settings.parameters = {}
    tab.page.forge.add_model("hf", str(published), "huggingface")
    controls = tab.controls("hf")
    assert (controls["temperature"].value, "lf-unset" in controls["temperature"].elem_classes) == (0.6, True)
    assert says(tab, "temperature", "hf") == "Not set: 0.6 is used (generation_config.json)."
    assert says(tab, "top_k", "hf") == "Not set: 50 is used (the engine's default)."


def test_what_is_typed_is_no_longer_the_presets(tab: Tab) -> None:
    tab.press("apply_preset", select="calm")
    look = tab.type("temperature", 0.4)
    assert look["info"].endswith("Set by this chat (tiny.yaml line 4 says 0.9).")
    assert tab.origins == {"top_k": "preset calm"}


def test_a_box_that_is_left_as_it_was_is_still_the_presets(tab: Tab) -> None:
    tab.page.set_parameters(ADA, "tiny", {"stop": ["a"]}, "preset calm")
    assert "Set by preset calm" in tab.type("stop", "a")["info"]
    assert tab.origins == {"stop": "preset calm"}


@pytest.mark.parametrize(("handler", "value"), [("save_parameters", 0.3), ("reset_parameters", 0.9)])
def test_save_and_reset_forget_where_values_came_from(tab: Tab, handler: str, value: float) -> None:
    tab.press("apply_preset", select="calm")
    tab.press(handler)
    assert not tab.chosen and not tab.origins
    assert tab.controls()["temperature"].value == value
    assert says(tab, "temperature") == "Set by tiny.yaml line 4 (settings.yaml line 2 says 0.5)."


def test_an_emptied_box_shows_what_will_hold_without_it(tab: Tab) -> None:
    look = tab.type("temperature", "")
    assert look["value"] == 0.5 and look["info"].endswith("Set by settings.yaml line 2, once it is saved.")
    assert tab.controls()["temperature"].value == 0.5
