"""Gradio without what the page never uses: quicker to import, and whole where it is asked for more."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from page_kit import ROOT

PARSED = """
import ast
parse, parsed = ast.parse, []
ast.parse = lambda source, *more, **named: (parsed.append(source), parse(source, *more, **named))[1]
import llamaforge_ui
print(len([source for source in parsed if "EVENTS" in str(source)]))
"""
LEFT_ALONE = """
import inspect, sys
getfile, finders = inspect.getfile, list(sys.meta_path)
import llamaforge_ui
print(inspect.getfile is getfile, [finder for finder in sys.meta_path if finder not in finders])
"""
TABLE = """
import sys, warnings
import llamaforge_ui
before = "pandas.core" in sys.modules
import gradio as gr
warnings.simplefilter("ignore")
with gr.Blocks():
    table = gr.Dataframe()
print(before, table.postprocess([["kite", 2]]).data, "pandas.core" in sys.modules)
"""
ANOTHER_GRADIO = """
import inspect

class Part: ...

inspect.getfile(Part)  # a Gradio that cannot do without
print("imported", __name__)
"""


def run(script: str, *paths: Path) -> str:
    begin = f"import sys; sys.path[:0] = {[str(path) for path in paths]}\n"
    done = subprocess.run([sys.executable, "-c", begin + script], cwd=ROOT, capture_output=True, text=True, timeout=90)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_gradio_parses_none_of_its_components() -> None:
    assert run(PARSED) == "0"


def test_nothing_of_python_is_changed_once_it_is_imported() -> None:
    assert run(LEFT_ALONE) == "True []"


def test_pandas_is_imported_once_a_table_asks_for_it() -> None:
    assert run(TABLE) == "False [['kite', 2]] True"


def test_a_gradio_that_takes_it_amiss_is_imported_as_usual(tmp_path: Path) -> None:
    (tmp_path / "gradio").mkdir()
    (tmp_path / "gradio" / "__init__.py").write_text("from . import parts\n", "utf-8")
    (tmp_path / "gradio" / "parts.py").write_text(ANOTHER_GRADIO, "utf-8")
    script = "import runpy; runpy.run_path('llamaforge_ui/quick_gradio.py')['import_gradio']()"
    assert run(script, tmp_path) == "imported gradio.parts"
