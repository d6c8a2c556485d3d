"""The page of LlamaForge; the only package that knows Gradio."""

from .access import Access, is_public
from .gate import Hosts
from .login import OwnerLogin, WeakPassphrase, checked_passphrase, new_passphrase
from .preflight import Address, announcement, findings
from .serve import Site, launch_options
from .ui import Pages, build_pages

__all__ = [
    "Access",
    "Address",
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
