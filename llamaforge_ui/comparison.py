"""What each backend is good at, side by side, for who has to choose one."""

from __future__ import annotations

import html
from dataclasses import fields

from llamaforge import BackendError, Strengths, backend_names, get_backend

QUALITIES = tuple(field.name for field in fields(Strengths))


def comparison(chosen: str | None) -> str:
    """Return a table in HTML of the backends that say what they are good at, the chosen one marked.

    A narrow page has room for that one alone, and shows no other.
    """
    told = {name: strengths for name in backend_names() if (strengths := _strengths(name)) != Strengths()}
    if not told:
        return ""
    marks = {name: ' class="lf-chosen"' if name == chosen else "" for name in told}
    head = "".join(f'<th scope="col"{marks[name]}>{html.escape(name)}</th>' for name in told)
    rows = [
        f'<tr><th scope="row">{quality}</th>'
        + "".join(f"<td{marks[name]}>{html.escape(str(getattr(told[name], quality)))}</td>" for name in told)
        + "</tr>"
        for quality in QUALITIES
    ]
    kind = "lf-card lf-compare" if chosen in told else "lf-card lf-compare lf-others"
    return (
        f'<table class="{kind}" aria-label="What each backend is good at"><thead><tr><td></td>{head}</tr></thead>'
        f"<tbody>{''.join(rows)}</tbody></table>"
    )


def _strengths(name: str) -> Strengths:
    try:
        said = get_backend(name).strengths
    except BackendError:
        return Strengths()
    return said if isinstance(said, Strengths) else Strengths()  # a backend of somebody's own may say anything
