"""Chat with any language model: GGUF files, Hugging Face models, OpenAI-compatible services.

Importing this package loads no engine and no page: neither gradio, torch, transformers, llama_cpp nor openai.
"""

from .backends import backend_names, get_backend, register_backend
from .backends.base import BaseBackend
from .backends.parameters import ParameterInfo, Parameters, SamplingParameters, describe, validate
from .config import Config, Model
from .errors import (
    BackendError,
    BackendMissing,
    Busy,
    CannotSplice,
    ConfigConflict,
    ConfigError,
    ContextOverflow,
    EmptyPrompt,
    GenerationError,
    GuestLimit,
    KeyRefused,
    LlamaForgeError,
    LoadSuperseded,
    ModelError,
    ModelFileError,
    NoModelLoaded,
    NotCompatible,
    NoVision,
    OutOfMemory,
    ParameterError,
    PluginError,
    ServiceBusy,
    ServiceError,
    ServiceUnreachable,
)
from .forge import LlamaForge, Status
from .generation import Generation
from .guests import GuestLimits
from .key_mask import literal_keys
from .memory import format_bytes
from .plugins import plugin_names, register_plugin
from .plugins.base import Plugin
from .plugins.choice import PluginUse
from .precedence import Setting
from .presets import Preset, PresetFit
from .redaction import hide_secrets
from .text_stream import clean_text
from .types import (
    Chunk,
    Image,
    LastTokens,
    LoadProgress,
    MemoryNeed,
    Message,
    ModelCard,
    News,
    Overflow,
    PluginNote,
    Prompt,
    Result,
    Role,
    Strengths,
    Token,
    Usage,
)

__all__ = [
    "BackendError",
    "BackendMissing",
    "BaseBackend",
    "Busy",
    "CannotSplice",
    "Chunk",
    "Config",
    "ConfigConflict",
    "ConfigError",
    "ContextOverflow",
    "EmptyPrompt",
    "Generation",
    "GenerationError",
    "GuestLimit",
    "GuestLimits",
    "Image",
    "KeyRefused",
    "LastTokens",
    "LlamaForge",
    "LlamaForgeError",
    "LoadProgress",
    "LoadSuperseded",
    "MemoryNeed",
    "Message",
    "Model",
    "ModelCard",
    "ModelError",
    "ModelFileError",
    "News",
    "NoModelLoaded",
    "NoVision",
    "NotCompatible",
    "OutOfMemory",
    "Overflow",
    "ParameterError",
    "ParameterInfo",
    "Parameters",
    "Plugin",
    "PluginError",
    "PluginNote",
    "PluginUse",
    "Preset",
    "PresetFit",
    "Prompt",
    "Result",
    "Role",
    "SamplingParameters",
    "ServiceBusy",
    "ServiceError",
    "ServiceUnreachable",
    "Setting",
    "Status",
    "Strengths",
    "Token",
    "Usage",
    "backend_names",
    "clean_text",
    "describe",
    "format_bytes",
    "get_backend",
    "hide_secrets",
    "literal_keys",
    "plugin_names",
    "register_backend",
    "register_plugin",
    "validate",
]
