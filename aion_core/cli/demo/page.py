"""The report as one HTML page that needs nothing beside it: figures are part of it."""

from __future__ import annotations

import html
from base64 import b64encode
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

STYLE = (
    "body{font:15px/1.5 system-ui,sans-serif;max-width:62rem;margin:2rem auto;padding:0 1rem;color:#22304a}"
    "img{max-width:100%}table{border-collapse:collapse;font-size:13px;margin:.6rem 0}"
    "td,th{padding:.2rem .7rem;text-align:right}td:first-child,th:first-child{text-align:left}"
    "tr:nth-child(even){background:#f2f5f9}.note{background:#fdf1ee;padding:.6rem 1rem}h2{margin-top:2.2rem}"
    "figcaption{font-size:13px;color:#55617a}figure{margin:.6rem 0}"
)


def page(title: str, note: str, sections: Iterable[tuple[str, Sequence[str]]]) -> str:
    """Return the page: sections with a heading and pieces of HTML; those without pieces are left out."""
    body = "".join(f"<h2>{html.escape(name)}</h2>{''.join(parts)}" for name, parts in sections if any(parts))
    return (
        f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{html.escape(title)}</title>'
        f"<style>{STYLE}</style><h1>{html.escape(title)}</h1><p>{html.escape(note)}</p>{body}</html>\n"
    )


def picture(png: bytes, caption: str) -> str:
    """Return a figure that is part of the page."""
    data = b64encode(png).decode()
    words = html.escape(caption)
    return f'<figure><img alt="{words}" src="data:image/png;base64,{data}"><figcaption>{words}</figcaption></figure>'


def paragraph(text: str, kind: str = "") -> str:
    """Return a paragraph; kind ``note`` stands out."""
    return f"<p{f' class={kind}' if kind else ''}>{html.escape(text)}</p>"


def table(rows: Sequence[Mapping[str, Any]], columns: Mapping[str, str]) -> str:
    """Return a table of some entries of dictionaries, under headings; what is missing is a dash."""
    if not rows:
        return ""
    head = "".join(f"<th>{html.escape(name)}</th>" for name in columns.values())
    lines = ("".join(f"<td>{html.escape(cell(row.get(key)))}</td>" for key in columns) for row in rows)
    return f"<table><tr>{head}</tr>{''.join(f'<tr>{line}</tr>' for line in lines)}</table>"


def cell(value: Any) -> str:
    """Return a number or a text as it stands in a table."""
    if value is None:
        return "–"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.3g}" if abs(value) < 1000 else f"{value:,.0f}"
    return f"{value:,}" if isinstance(value, int) else str(value)
