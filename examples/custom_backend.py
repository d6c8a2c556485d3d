"""A backend of your own in four methods, with a parameter that gets its slider on the page for free."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # not needed once llamaforge is installed

from llamaforge import BaseBackend, LlamaForge, Parameters, register_backend
from llamaforge.backends.parameters import generate


class ShoutParameters(Parameters):
    exclamations: int | None = generate(1, "How many exclamation marks end the answer.", ge=0, le=10, advanced=False)


class ShoutBackend(BaseBackend):
    """Says the message back, loudly."""

    Parameters = ShoutParameters

    def load_model(self, model_path, parameters=None):
        self.loaded = True

    def generate(self, prompt, parameters=None):
        return "".join(self.generate_stream(prompt, parameters))

    def generate_stream(self, prompt, parameters=None):
        yield prompt.upper()
        yield "!" * (parameters or {}).get("exclamations", 1)

    def is_model_loaded(self):
        return self.loaded


register_backend("shout", ShoutBackend)

if __name__ == "__main__":
    forge = LlamaForge()
    forge.add_model("loud", "-", "shout", {"exclamations": 3})
    forge.load_model("loud")
    print(forge.generate("hello", raw=True))
