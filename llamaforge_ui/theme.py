"""The look, and every option that Gradio would otherwise take from the environment."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import gradio as gr
from starlette.middleware import Middleware

from .headers import SPACES, SafeHeaders

ASSETS = Path(__file__).parent / "assets"
SYSTEM_FONTS = ["system-ui", "-apple-system", "Segoe UI", "Roboto", "sans-serif"]
SYSTEM_MONO = ["ui-monospace", "SFMono-Regular", "Menlo", "Consolas", "monospace"]


def launch_options(host: str, port: int, *, share: bool) -> dict[str, Any]:
    """Return the keyword arguments of Blocks.launch; nothing is left for an environment variable to decide."""
    return {
        "server_name": host,
        "server_port": port,
        "share": share,
        "inbrowser": False,
        "inline": False,
        "quiet": True,
        "debug": False,
        "show_error": False,
        "prevent_thread_lock": True,
        "root_path": "",
        "allowed_paths": [],
        "blocked_paths": [],
        "max_file_size": "1mb",
        "enable_monitoring": False,
        "mcp_server": False,
        "run_history": False,
        "ssr_mode": False,
        "pwa": False,
        "num_workers": 0,  # a forked server would outlive a killed app, and takes uploads on a port of its own
        "strict_cors": True,
        "state_session_capacity": 1000,
        "footer_links": [],
        "app_kwargs": {"docs_url": None, "redoc_url": None, "openapi_url": None, "middleware": _middleware()},
        "theme": theme(),
        "css_paths": [ASSETS / "page.css"],
        "head": f"<script>{(ASSETS / 'page.js').read_text('utf-8')}</script>",
    }


def _middleware() -> list[Middleware]:
    framed_by = SPACES if "SPACE_ID" in os.environ else "'self'"
    return [Middleware(SafeHeaders, framed_by=framed_by)]


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
