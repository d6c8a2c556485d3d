"""The rivals of the page's benchmark: the chat that a user writes in an afternoon, near its model or beside a server.

python benchmarks/afternoon.py near PORT MODEL TURNS          gr.ChatInterface on llama-cpp-python
python benchmarks/afternoon.py client PORT SERVER_PORT TURNS  the same page on the openai client
python benchmarks/afternoon.py server PORT MODEL              llama-cpp-python's server at the benchmark's pace
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from paced import Pace, paced

N_CTX = 16_384


def history(turns: int) -> list[dict[str, str]]:
    """Return earlier turns: a question and its answer each."""
    return [
        {"role": role, "content": f"{role} says number {number}, and it is a word or two."}
        for number in range(1, turns + 1)
        for role in ("user", "assistant")
    ]


def messages_of(message: str, earlier: list[dict[str, Any]]) -> list[dict[str, str]]:
    texts = [(one["role"], one["content"]) for one in earlier]
    plain = [(role, text if isinstance(text, str) else "".join(part["text"] for part in text)) for role, text in texts]
    return [{"role": role, "content": text} for role, text in [*plain, ("user", message)]]


def says(chunk: Any) -> bool:
    return bool(chunk["choices"][0]["delta"].get("content"))


def near(port: int, model: Path, turns: int) -> None:
    import llama_cpp

    llama = llama_cpp.Llama(str(model), n_ctx=N_CTX, n_threads=1, n_threads_batch=1, verbose=False)

    def answer(message: str, earlier: list[dict[str, Any]]) -> Iterator[str]:
        asked = messages_of(message, earlier)
        tokens = Pace.read(model.parent).tokens
        stream = llama.create_chat_completion(asked, max_tokens=tokens, temperature=0.0, stream=True)
        text = ""
        for chunk in paced(stream, says, model.parent, "near"):
            text += chunk["choices"][0]["delta"].get("content") or ""
            yield text

    launch(answer, port, turns)


def client(port: int, server: int, turns: int) -> None:
    import openai

    service = openai.OpenAI(base_url=f"http://127.0.0.1:{server}/v1", api_key="none")

    def answer(message: str, earlier: list[dict[str, Any]]) -> Iterator[str]:
        asked = messages_of(message, earlier)
        text = ""
        for chunk in service.chat.completions.create(model="tiny", messages=asked, stream=True):
            text += chunk.choices[0].delta.content or ""
            yield text

    launch(answer, port, turns)


def launch(answer: Any, port: int, turns: int) -> None:
    import gradio as gr

    page = gr.ChatInterface(answer, chatbot=gr.Chatbot(value=history(turns)))
    page.launch(server_name="127.0.0.1", server_port=port, quiet=True)


def server(port: int, model: Path) -> None:
    import llama_cpp
    from llama_cpp.server.__main__ import main

    plain = llama_cpp.Llama.create_chat_completion

    def create(llama: Any, **options: Any) -> Any:
        told = options | {"max_tokens": Pace.read(model.parent).tokens, "temperature": 0.0}
        return paced(plain(llama, **told), says, model.parent, "client")

    llama_cpp.Llama.create_chat_completion = create
    flags = {"model": model, "port": port, "n_ctx": N_CTX, "n_threads": 1, "n_threads_batch": 1, "verbose": False}
    flags |= {"host": "127.0.0.1", "interrupt_requests": False}
    sys.argv[1:] = [text for name, value in flags.items() for text in (f"--{name}", str(value))]
    main()


if __name__ == "__main__":
    kind, port, what, *more = sys.argv[1:]
    if kind == "server":
        server(int(port), Path(what))
    elif kind == "client":
        client(int(port), int(what), int(more[0]))
    else:
        near(int(port), Path(what), int(more[0]))
