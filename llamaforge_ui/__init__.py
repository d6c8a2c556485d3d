"""The page of LlamaForge; the only package that knows Gradio."""

from .access import Access
from .theme import launch_options
from .ui import build_ui

__all__ = ["Access", "build_ui", "launch_options"]
