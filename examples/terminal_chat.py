"""Chat with a GGUF file in the terminal: python examples/terminal_chat.py model.gguf

Ctrl-C stops the answer that is being written; an empty line ends the chat.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # not needed once llamaforge is installed

from llamaforge import LlamaForge, Message

forge = LlamaForge()
forge.add_model("terminal", sys.argv[1], "llama.cpp")
forge.load_model("terminal")

chat: list[Message] = []
while text := input("> "):
    chat.append(Message("user", text))
    answer = forge.chat_stream(chat)
    try:
        for piece in answer:
            print(piece, end="", flush=True)
    except KeyboardInterrupt:
        answer.stop()
    print()
    chat.append(Message("assistant", answer.text))
