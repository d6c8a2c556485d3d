"""Tiny Hugging Face models that see, with random weights: every token depends on all pictures and words before it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from tiny_hf import write_random_pair
from transformers import (
    AutoModelForCausalLM,
    LlavaConfig,
    LlavaForConditionalGeneration,
    Qwen2VLConfig,
    Qwen2VLForConditionalGeneration,
)

# As llava-hf writes it: of lists of parts only, with the mark of what is trained.
LLAVA_TEMPLATE = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' }}"
    "{% for part in message['content'] | selectattr('type', 'equalto', 'image') %}{{ '<image>\n' }}{% endfor %}"
    "{% for part in message['content'] | selectattr('type', 'equalto', 'text') %}"
    "{% generation %}{{ part['text'] }}{% endgeneration %}{% endfor %}{{ '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
# As Qwen writes it: of texts, or of parts.
QWEN_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n"
    "{% if message['content'] is string %}{{ message['content'] }}{% else %}{% for part in message['content'] %}"
    "{% if part['type'] == 'image' %}<|vision_start|><|image_pad|><|vision_end|>"
    "{% else %}{{ part['text'] }}{% endif %}{% endfor %}{% endif %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
QWEN_TOKENS = ("<|vision_start|>", "<|vision_end|>", "<|image_pad|>", "<|video_pad|>")


def write_tiny_llava(folder: Path) -> Path:
    """Write the random Llama of tiny_hf behind a CLIP tower; a picture is four tokens."""
    llama, text = _random_llama(folder)
    size = llama.config.vocab_size
    llama.resize_token_embeddings(size + 1, mean_resizing=False)
    vision = {"model_type": "clip_vision_model", "hidden_size": 32, "intermediate_size": 32, "image_size": 16}
    vision |= {"num_hidden_layers": 2, "num_attention_heads": 1, "patch_size": 8, "projection_dim": 32}
    config = LlavaConfig(vision_config=vision, text_config=llama.config.to_dict(), image_token_index=size)
    model = _with_random_weights(LlavaForConditionalGeneration(config))
    model.model.language_model.load_state_dict(llama.model.state_dict())
    model.lm_head.load_state_dict(llama.lm_head.state_dict())
    with torch.no_grad():
        model.lm_head.weight[-1] = 0
    model.save_pretrained(folder)
    _write_tokenizer(folder, text, ["<image>"], LLAVA_TEMPLATE)
    crop = {"size": {"shortest_edge": 16}, "crop_size": {"height": 16, "width": 16}}
    kinds = {"image_processor_type": "CLIPImageProcessor", "processor_class": "LlavaProcessor"}
    _write(folder, "preprocessor_config.json", kinds | crop)
    counts = {"patch_size": 8, "num_additional_image_tokens": 1, "vision_feature_select_strategy": "default"}
    _write(folder, "processor_config.json", {"processor_class": "LlavaProcessor", "image_token": "<image>"} | counts)
    return folder


def write_tiny_qwen_vl(folder: Path) -> Path:
    """Write a Qwen2-VL, which has positions of its own for pictures and takes films, which need torchvision."""
    llama, text = _random_llama(folder)
    size = llama.config.vocab_size
    shape = {"hidden_size": 64, "intermediate_size": 64, "num_hidden_layers": 2, "max_position_embeddings": 2048}
    heads = {"num_attention_heads": 2, "num_key_value_heads": 1, "vocab_size": size + len(QWEN_TOKENS)}
    rope = {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [4, 6, 6]}
    ends = {"bos_token_id": llama.config.bos_token_id, "eos_token_id": llama.config.eos_token_id}
    vision = {"depth": 1, "embed_dim": 32, "hidden_size": 64, "num_heads": 1, "patch_size": 14, "mlp_ratio": 2}
    names = ("vision_start_token_id", "vision_end_token_id", "image_token_id", "video_token_id")
    tokens = {name: size + number for number, name in enumerate(names)}
    config = Qwen2VLConfig(
        text_config=shape | heads | ends | {"rope_parameters": rope}, vision_config=vision, **tokens
    )
    _with_random_weights(Qwen2VLForConditionalGeneration(config)).save_pretrained(folder)
    _write_tokenizer(folder, text, QWEN_TOKENS, QWEN_TEMPLATE)
    kinds = {"image_processor_type": "Qwen2VLImageProcessor", "processor_class": "Qwen2VLProcessor"}
    _write(folder, "preprocessor_config.json", kinds | {"min_pixels": 3136, "max_pixels": 1_000_000})
    return folder


def _random_llama(folder: Path) -> tuple[Any, Path]:
    folder.mkdir(parents=True, exist_ok=True)
    text = write_random_pair(folder)[1]
    return AutoModelForCausalLM.from_pretrained(text), text


def _with_random_weights(model: Any) -> Any:
    source = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for weight in model.parameters():
            if weight.dim() > 1:
                weight.normal_(0, 0.3, generator=source)
    return model


def _write_tokenizer(folder: Path, text: Path, more: Any, template: str) -> None:
    """Write the text model's tokenizer with control tokens more, and the template in a file of its own."""
    tokenizer, settings, generation = (
        json.loads((text / name).read_text("utf-8"))
        for name in ("tokenizer.json", "tokenizer_config.json", "generation_config.json")
    )
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
    first = len(tokenizer["model"]["vocab"])
    tokenizer["added_tokens"] += [{"id": first + n, "content": name} | flags for n, name in enumerate(more)]
    _write(folder, "tokenizer.json", tokenizer)
    _write(folder, "tokenizer_config.json", {name: value for name, value in settings.items() if name[:4] != "chat"})
    _write(folder, "generation_config.json", generation)
    (folder / "chat_template.jinja").write_text(template, "utf-8")


def _write(folder: Path, name: str, content: dict[str, Any]) -> None:
    (folder / name).write_text(json.dumps(content), "utf-8")
