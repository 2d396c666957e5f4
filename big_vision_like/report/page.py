"""HTML pages in a single file: embedded pictures, no scripts, no requests."""

import base64
import html
import re
from collections.abc import Sequence

import numpy as np

from big_vision_like.viz import clips, images

STYLE = """
:root { color-scheme: light dark; --page: #fff; --text: #222; --quiet: #555;
  --line: #ddd; --faint: #eee; --code: #f6f7f8; --link: #0060a0; --edge: #d8d8d8;
  --share: #dbe9f4; --true: #cdeadd; }
@media (prefers-color-scheme: dark) { :root { --page: #15181c; --text: #e3e5e8;
  --quiet: #a5abb3; --line: #3a4048; --faint: #2a2f36; --code: #1e2329;
  --link: #6db7f2; --edge: #3a4048; --share: #27425a; --true: #1f5140; }
  svg.chart [fill^="#"], svg.chart [stroke^="#"] { filter: brightness(1.3); } }
* { box-sizing: border-box; }
body { max-width: 1160px; margin: 0 auto; padding: 24px 20px 64px;
  background: var(--page); color: var(--text);
  font: 15px/1.5 system-ui, "Segoe UI", Helvetica, Arial, sans-serif; }
h1 { font-size: 26px; margin: 8px 0 4px; overflow-wrap: anywhere; }
h2 { font-size: 20px; margin: 40px 0 4px; padding-bottom: 4px;
  border-bottom: 1px solid var(--line); }
h3 { font-size: 15px; margin: 16px 0 8px; overflow-wrap: anywhere; }
p { margin: 4px 0 12px; max-width: 80ch; }
p.note, p.absent { color: var(--quiet); }
p.absent { font-style: italic; }
a { color: var(--link); }
nav { display: flex; flex-wrap: wrap; gap: 4px 16px; margin: 8px 0 0; font-size: 14px; }
.wide { overflow-x: auto; margin: 8px 0 16px; }
table { border-collapse: collapse; font-size: 14px; max-width: 100%; }
th, td { text-align: left; vertical-align: top; padding: 4px 16px 4px 0;
  border-bottom: 1px solid var(--faint); overflow-wrap: anywhere; }
th { font-weight: 600; } tbody th { white-space: nowrap; color: var(--quiet); }
details { margin: 8px 0; } summary { cursor: pointer; color: var(--link); }
pre { font: 12.5px/1.45 ui-monospace, Consolas, "DejaVu Sans Mono", monospace;
  background: var(--code); padding: 12px; margin: 8px 0; white-space: pre-wrap;
  overflow-wrap: anywhere; border-radius: 4px; }
figure { margin: 8px 0 16px; }
figcaption { font-size: 13.5px; color: var(--quiet); max-width: 80ch; margin-top: 6px; }
img { display: block; max-width: 100%; height: auto; }
.card img, .tiles img { outline: 1px solid var(--edge); }
svg.chart { max-width: 100%; height: auto; font-family: inherit; }
.charts { display: grid; grid-template-columns: repeat(auto-fill, minmax(500px, 1fr));
  gap: 16px 24px; margin: 8px 0; }
.beside { display: grid; grid-template-columns: repeat(auto-fit, minmax(440px, 1fr));
  gap: 8px 32px; align-items: start; }
.beside > *, .charts > * { min-width: 0; break-inside: avoid; }
.cards { display: grid; grid-template-columns: repeat(auto-fill, minmax(128px, 1fr));
  gap: 16px 12px; margin: 8px 0 16px; }
.card { font-size: 12.5px; line-height: 1.35; break-inside: avoid; min-width: 0; }
.card img { margin-bottom: 6px; }
.tiles { display: flex; flex-wrap: wrap; gap: 8px; max-width: 1008px; padding: 1px; }
.card div { overflow: hidden; text-overflow: ellipsis; white-space: nowrap; }
.bar { display: grid; grid-template-columns: 1fr 4.2em; gap: 4px; position: relative;
  font-size: 12px; }
.bar i { position: absolute; left: 0; top: 1px; bottom: 1px; background: var(--share); }
.bar.true i { background: var(--true); }
.bar span { position: relative; padding-left: 3px; overflow: hidden;
  text-overflow: ellipsis; }
.bar span:last-child { text-align: right; }
@media (max-width: 560px) {
  body { padding: 12px 12px 48px; } h1 { font-size: 22px; }
  .charts, .beside { grid-template-columns: 1fr; }
  .cards { grid-template-columns: repeat(auto-fill, minmax(104px, 1fr)); }
  .pairs, .pairs tbody, .pairs tr, .pairs th, .pairs td { display: block; }
  .pairs th, .pairs td { padding-right: 0; }
  table:not(.pairs) { max-width: none; }
  table:not(.pairs) th, table:not(.pairs) td { overflow-wrap: break-word; }
  .pairs th { border: 0; padding-bottom: 0; white-space: normal; } }
@media print { :root { --page: #fff; --text: #222; --quiet: #555; --line: #ddd;
    --faint: #eee; --code: #f6f7f8; --share: #dbe9f4; --true: #cdeadd; }
  body { max-width: none; padding: 0; font-size: 11pt; }
  nav { display: none; } h2, h3 { break-after: avoid; } a { color: inherit; }
  .charts, .beside { grid-template-columns: 1fr 1fr; }
  .bar i, pre { print-color-adjust: exact; } }
"""


def document(title: str, note: str, sections: Sequence[tuple[str, str]]) -> str:
  """Returns the whole page with (heading, HTML) sections; other arguments are text."""
  links = ''.join(
    f'<a href="#{anchor(heading)}">{html.escape(heading)}</a>'
    for heading, _ in sections
  )
  body = ''.join(
    f'<section><h2 id="{anchor(heading)}">{html.escape(heading)}</h2>{content}'
    '</section>'
    for heading, content in sections
  )
  return (
    '<!DOCTYPE html><html lang="en"><head><meta charset="utf-8">'
    '<meta name="viewport" content="width=device-width, initial-scale=1">'
    # An empty icon keeps the browser from requesting one.
    '<link rel="icon" href="data:,">'
    f'<title>{html.escape(title)}</title><style>{STYLE}</style></head><body>'
    f'<h1>{html.escape(title)}</h1><p class="note">{html.escape(note)}</p>'
    f'<nav>{links}</nav>{body}</body></html>\n'
  )


def anchor(heading: str) -> str:
  """Returns the anchor of a heading for links within the page."""
  return html.escape('-'.join(heading.lower().split()))


def paragraph(text: str, kind: str = 'note') -> str:
  """Returns a paragraph of text; `kind` is its style, 'note' or 'absent'."""
  return f'<p class="{kind}">{html.escape(text)}</p>'


def picture(image_HWC: np.ndarray, alt: str) -> str:
  """Returns an RGB uint8 picture as embedded PNG in its size; hovering shows `alt`."""
  height, width = image_HWC.shape[:2]
  data, alt = base64.b64encode(images.png(image_HWC)).decode(), html.escape(alt)
  return (
    f'<img src="data:image/png;base64,{data}" width="{width}" height="{height}" '
    f'alt="{alt}" title="{alt}">'
  )


def animation(frames_THWC: np.ndarray, alt: str, seconds: float = 0.4) -> str:
  """Returns RGB uint8 frames as an embedded GIF, `seconds` each, like `picture`."""
  height, width = frames_THWC.shape[1:3]
  data, alt = (
    base64.b64encode(clips.gif(frames_THWC, seconds)).decode(),
    html.escape(alt),
  )
  return (
    f'<img src="data:image/gif;base64,{data}" width="{width}" height="{height}" '
    f'alt="{alt}" title="{alt}">'
  )


def figure(content: str, *captions: str) -> str:
  """Returns content (HTML) with captions below it, one per line."""
  lines = ''.join(f'<figcaption>{html.escape(c)}</figcaption>' for c in captions)
  return f'<figure>{content}{lines}</figure>'


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
  """Returns a table; the first cell of a row is its name. `header` may be empty."""
  head = ''.join(f'<th scope="col">{html.escape(cell)}</th>' for cell in header)
  body = ''.join(
    f'<tr><th scope="row">{html.escape(name)}</th>'
    + ''.join(f'<td>{breakable(cell)}</td>' for cell in cells)
    + '</tr>'
    for name, *cells in rows
  )
  head = f'<thead><tr>{head}</tr></thead>' if header else ''
  # Without a header, rows are pairs of name and value: phones show these as two lines.
  kind = '' if header else ' class="pairs"'
  return f'<div class="wide"><table{kind}>{head}<tbody>{body}</tbody></table></div>'


def breakable(text: str) -> str:
  """Returns text that may break after an opening parenthesis, as in recorded calls."""
  return re.sub(r'(?<=\w)\(', '(<wbr>', html.escape(text))


def details(summary: str, content: str) -> str:
  """Returns content (HTML) that unfolds on a click."""
  return f'<details><summary>{html.escape(summary)}</summary>{content}</details>'


def preformatted(text: str) -> str:
  """Returns text that keeps its line breaks."""
  return f'<pre>{html.escape(text)}</pre>'


def heading(text: str) -> str:
  """Returns the title of a part of a section."""
  return f'<h3>{html.escape(text)}</h3>'


def charts(contents: Sequence[str]) -> str:
  """Returns charts (HTML) side by side, two on a wide page."""
  return f'<div class="charts">{"".join(contents)}</div>'


def arranged(contents: Sequence[str], layout: str) -> str:
  """Returns parts (HTML) of a section, one per run, 'beside' or 'below' each other."""
  parts = ''.join(f'<div>{content}</div>' for content in contents)
  return f'<div class="{layout}">{parts}</div>'


def cards(contents: Sequence[str]) -> str:
  """Returns cards (HTML) side by side, as many as fit."""
  return f'<div class="cards">{"".join(contents)}</div>'


def card(pictures: str, title: str, lines: str) -> str:
  """Returns a thumbnail (HTML) with lines below it (HTML); hovering shows the title."""
  return f'<div class="card" title="{html.escape(title)}">{pictures}{lines}</div>'


def tiles(contents: Sequence[str]) -> str:
  """Returns small pictures (HTML) in rows, fourteen of 64 pixels on a wide page."""
  return f'<div class="tiles">{"".join(contents)}</div>'


def text_line(text: str) -> str:
  """Returns a line of text, truncated if it does not fit; hovering shows all of it."""
  text = html.escape(text)
  return f'<div title="{text}">{text}</div>'


def bar(name: str, share: float, is_true: bool) -> str:
  """Returns a line with a bar for a probability, green if the class is the true one."""
  kind = 'bar true' if is_true else 'bar'
  name, percent = html.escape(name), f'{100 * share:.1f}'
  return (
    f'<div class="{kind}" title="{name}"><i style="width:{percent}%"></i>'
    f'<span>{name}</span><span>{percent} %</span></div>'
  )
