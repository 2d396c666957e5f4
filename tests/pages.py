"""Pages that tools write: runs to report on, and functions to read and open pages."""

import base64
import html
import html.parser
import json
import pathlib
import re
import shutil
import subprocess

import cv2
import found
import jax
import ml_collections as mlc
import numpy as np
import pytest

from big_vision_like.devices import mesh as meshes
from big_vision_like.report import compose
from big_vision_like.run import checkpoint, experiment
from big_vision_like.spec import build

BROWSER = next(
  filter(None, map(shutil.which, ('chromium', 'chromium-browser', 'google-chrome'))),
  None,
)
# Added to a copy of the page: stores facts that only a browser knows in attributes.
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
  """The text, the headings and the pictures of a page."""

  def __init__(self, path: pathlib.Path):
    super().__init__()
    self.text, self.headings, self.images, self._tag = '', [], [], ''
    self.feed(path.read_text().replace('<wbr>', ''))

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
  """Returns a page's DOM after loading in a browser, and the browser's messages."""
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
  """Returns what the probe measured in a browsed page."""
  [root] = re.findall('<html[^>]*>', dom)
  return dict(re.findall(r'data-(\w+)="([^"]*)"', root))


def opened(page: pathlib.Path, profile: pathlib.Path) -> dict[str, str]:
  """Opens a page in a browser; checks that it is complete and fetches nothing."""
  dom, log = browse(page, profile)
  found = probed(dom)
  assert 'CONSOLE' not in log and found['fetched'] == found['broken'] == '0'
  assert found['overflowing'] == '', 'something is wider than 1200 pixels'
  return found


def rows_of(text: str) -> list[list[str]]:
  """Returns the cells of all tables."""
  rows = re.findall('<tr>(.*?)</tr>', text.replace('<wbr>', ''))
  return [
    [html.unescape(cell) for cell in re.findall(r'<t[hd][^>]*>(.*?)</t[hd]>', row)]
    for row in rows
  ]


def pictures_of(text: str) -> list[np.ndarray]:
  """Returns the pictures of a page, RGB."""
  found = re.findall('src="data:image/png;base64,([^"]*)"', text)
  decoded = (np.frombuffer(base64.b64decode(data), np.uint8) for data in found)
  return [cv2.imdecode(data, cv2.IMREAD_COLOR)[..., ::-1] for data in decoded]


def untrained(config: mlc.ConfigDict, folder: pathlib.Path) -> pathlib.Path:
  """Writes the files of a run with random weights, for tests of pages."""
  rng = np.random.default_rng(0)
  # Nothing is compiled; variances must be positive.
  state = jax.tree.map(
    lambda x: rng.normal(size=x.shape, scale=0.2).astype(x.dtype),
    experiment.make(config).abstract_state,
  )
  state = state.replace(mutable=jax.tree.map(lambda x: np.abs(x) + 1, state.mutable))
  with checkpoint.Checkpoints(folder) as checkpoints:
    checkpoints.save(2, state.replace(step=np.int32(2)), {}, 1.0)
  (folder / 'config.json').write_text(config.to_json())
  record = {'step': 2, 'kind': 'train', 'loss': 2.5}
  (folder / 'metrics.jsonl').write_text(json.dumps(record) + '\n')
  return folder


def source_of(folder: pathlib.Path, num_examples: int = 100, evaluator: str = ''):
  """Returns the input of all sections of a page about a run."""
  return compose.read(str(folder), None, num_examples, evaluator)


def evaluated(source, name: str) -> dict:
  """Returns the results of a run's evaluator itself."""
  evaluator = build(source.log.config['evals'][name])
  mesh = meshes.make_mesh(devices=jax.devices()[:1])
  predict = evaluator.prediction(source.run.task)
  return found.flat(evaluator.run(predict, source.run.state, mesh))
