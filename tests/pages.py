"""Pages that tools write: how tests read a page and open it."""

import html.parser
import pathlib
import re
import shutil
import subprocess

import pytest

BROWSER = next(
  filter(None, map(shutil.which, ('chromium', 'chromium-browser', 'google-chrome'))),
  None,
)
# Added to a copy of the page: what only a browser knows, written where a test finds it.
PROBE = """<script>
  addEventListener('load', () => {
    const all = [...document.querySelectorAll('body *')];
    const data = document.documentElement.dataset;
    data.images = document.images.length;
    data.broken = [...document.images].filter(i => !i.naturalWidth).length;
    data.fetched = performance.getEntriesByType('resource').filter(
      e => !e.name.startsWith('data:')).length;
    data.overflowing = all.filter(
      e => e.getBoundingClientRect().right > innerWidth + 1).map(e => e.tagName);
    data.tall = document.documentElement.scrollHeight;
    // Names of tokens that leave their drawing or lie on each other.
    const named = (svg) => [...svg.querySelectorAll('text')].map(
      t => [t.firstChild.textContent, t.getBoundingClientRect()]);
    const common = (a, b) => Math.min(
      Math.min(a.right, b.right) - Math.max(a.left, b.left),
      Math.min(a.bottom, b.bottom) - Math.max(a.top, b.top));
    data.cut = [], data.overlapping = [];
    for (const svg of document.querySelectorAll('svg[class^=token]')) {
      const place = svg.getBoundingClientRect(), texts = named(svg);
      data.cut += texts.filter(([_, box]) => box.left < place.left - 1
        || box.right > place.right + 1 || box.top < place.top - 3).map(([t]) => t);
      texts.forEach(([name, box], i) => data.overlapping += texts.slice(0, i).filter(
        ([_, other]) => common(box, other) > 3).map(([t]) => `${t} on ${name}, `));
    }
  });
</script>"""


class Reader(html.parser.HTMLParser):
  """The text and the headings of a page, and how many pictures it has."""

  def __init__(self, path: pathlib.Path):
    super().__init__()
    self.text, self.headings, self.images, self._tag = '', [], [], ''
    self.feed(path.read_text())

  def handle_starttag(self, tag, attrs):
    self._tag = tag
    if tag == 'img':
      self.images.append(dict(attrs)['src'])

  def handle_data(self, data):
    self.text += data + '\n'
    if self._tag == 'h2':
      self.headings.append(data)

  def handle_endtag(self, tag):
    self._tag = ''


def browse(page: pathlib.Path, profile: pathlib.Path) -> tuple[str, str]:
  """The page's DOM after loading in a browser, and what the browser complained of."""
  if BROWSER is None:
    pytest.skip('no chromium, chromium-browser or google-chrome is installed')
  probed = profile / 'page.html'
  probed.write_text(page.read_text().replace('</head>', f'{PROBE}</head>'))
  flags = (
    'headless no-sandbox disable-gpu disable-quic no-first-run '
    'disable-background-networking disable-component-update disable-sync '
    'enable-logging=stderr v=0 window-size=1200,900 dump-dom '
    f'user-data-dir={profile}/profile'
  )
  result = subprocess.run(
    [BROWSER, *(f'--{flag}' for flag in flags.split()), probed.as_uri()],
    capture_output=True,
    text=True,
    timeout=120,
    check=True,
  )
  return result.stdout, result.stderr


def probed(dom: str) -> dict[str, str]:
  """What the probe found in a browsed page."""
  [root] = re.findall('<html[^>]*>', dom)
  return dict(re.findall(r'data-(\w+)="([^"]*)"', root))
