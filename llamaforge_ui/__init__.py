"""The page of LlamaForge; the only package that knows Gradio."""

from .quick_gradio import import_gradio

import_gradio()  # before the modules below do

from .access import Access, is_public
from .gate import Hosts
from .history import History
from .history_file import FILE_NAME, HistoryError
from .login import OwnerLogin, WeakPassphrase, checked_passphrase, new_passphrase
from .preflight import Address, announcement, findings
from .serve import Site, launch_options
from .ui import Pages, build_pages

__all__ = [
    "FILE_NAME",
    "Access",
    "Address",
    "History",
    "HistoryError",
    "Hosts",
    "OwnerLogin",
    "Pages",
    "Site",
    "WeakPassphrase",
    "announcement",
    "build_pages",
    "checked_passphrase",
    "findings",
    "is_public",
    "launch_options",
    "new_passphrase",
]
