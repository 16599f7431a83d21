"""A self-contained HTML page: no scripts, no network, light and dark."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape

_CSS = """
:root {
  color-scheme: light dark;
  --paper: #ffffff; --ink: #1c2024; --soft: #60656c; --rule: #d9dce0; --accent: #1769c6;
  --advised: #b4540a; --warn: #a13a00;
  --kind-0: #1769c6; --kind-1: #b4540a; --kind-2: #13795b; --kind-3: #8e4ec6;
  --kind-4: #a83269; --kind-5: #6b6f00;
}
@media (prefers-color-scheme: dark) {
  :root {
    --paper: #15181b; --ink: #e8eaed; --soft: #a3a9b1; --rule: #363b41; --accent: #6cb0ff;
    --advised: #ffa057; --warn: #ffa057;
    --kind-0: #6cb0ff; --kind-1: #ffa057; --kind-2: #3dd6a3; --kind-3: #c9a0ff;
    --kind-4: #ff8cc0; --kind-5: #d3d64a;
  }
}
body { background: var(--paper); color: var(--ink); max-width: 62rem; margin: 2rem auto;
  padding: 0 1rem; font: 15px/1.5 system-ui, sans-serif; }
h1 { font-size: 1.5rem; margin-bottom: .2rem; } h2 { font-size: 1.15rem; margin-top: 2.2rem; }
h3 { font-size: 1rem; margin-bottom: .2rem; }
p { max-width: 46rem; } .soft { color: var(--soft); } .warn { color: var(--warn); }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; margin: .6rem 0; }
th, td { padding: .25rem .7rem; text-align: right; border-bottom: 1px solid var(--rule);
  white-space: nowrap; }
th { color: var(--soft); font-weight: 500; } th:first-child, td:first-child { text-align: left; }
.plots { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(24rem, 100%), 1fr));
  gap: 1.2rem; }
figure { margin: 0; } figure svg { width: 100%; height: auto; display: block; }
svg text { font-family: inherit; }
"""


def document(title: str, body: Iterable[str], css: str = "") -> str:
    """The whole page. `body`: parts of HTML. `css`: rules of this page, after the common ones."""
    content = "\n".join(body)
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(title)}</title>\n<style>{_CSS}{css}</style>\n</head>\n"
        f"<body>\n{content}\n</body>\n</html>\n"
    )


def table(heads: Sequence[str], rows: Iterable[Sequence[str]], classes: Sequence[str] = ()) -> str:
    """A table of text, which is escaped. `classes`: by row, or "" where the row has none."""
    head = "".join(f"<th>{escape(h)}</th>" for h in heads)
    body = []
    for n, row in enumerate(rows):
        mark = f' class="{classes[n]}"' if classes and classes[n] else ""
        body.append(f"<tr{mark}>{''.join(f'<td>{escape(c)}</td>' for c in row)}</tr>")
    return (
        f'<div class="scroll"><table><thead><tr>{head}</tr></thead>'
        f"<tbody>{''.join(body)}</tbody></table></div>"
    )


def figure(svg: str) -> str:
    """A plot, as wide as there is room."""
    return f"<figure>{svg}</figure>"
