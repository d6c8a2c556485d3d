"""The look: colours, fonts, and where the stylesheet and the script are."""

from __future__ import annotations

from pathlib import Path

import gradio as gr

ASSETS = Path(__file__).parent / "assets"
SYSTEM_FONTS = ["system-ui", "-apple-system", "Segoe UI", "Roboto", "sans-serif"]
SYSTEM_MONO = ["ui-monospace", "SFMono-Regular", "Menlo", "Consolas", "monospace"]


def theme() -> gr.themes.Base:
    """Return the theme: calm, one accent colour, fonts of the system."""
    return gr.themes.Soft(
        primary_hue="indigo", neutral_hue="slate", radius_size="md", font=SYSTEM_FONTS, font_mono=SYSTEM_MONO
    ).set(
        block_title_background_fill="none",
        block_title_text_color="*body_text_color",
        block_title_text_weight="600",
        block_title_padding="0",
        block_shadow="none",
        block_border_width="1px",
        input_border_width="1px",
        button_secondary_border_color="*border_color_primary",
        input_border_color="*neutral_300",
        checkbox_border_color="*neutral_400",
        checkbox_border_color_dark="*neutral_500",
        checkbox_label_background_fill_selected="*primary_50",
        checkbox_label_background_fill_selected_dark="*neutral_800",
        checkbox_label_text_color_selected="*body_text_color",
        button_cancel_background_fill="#dc2626",
        button_cancel_background_fill_hover="#b91c1c",
        button_cancel_background_fill_dark="#b91c1c",
        button_cancel_text_color="white",
        button_cancel_border_color="#dc2626",
    )
