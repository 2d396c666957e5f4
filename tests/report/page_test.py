import base64
import html.parser

import cv2
import numpy as np

from big_vision_like.report import page


class Reader(html.parser.HTMLParser):
  """A parser that collects tags and text, and raises if tags close out of order."""

  VOID = {'meta', 'link', 'img', 'br', 'wbr'}

  def __init__(self, text: str):
    super().__init__()
    self.open, self.tags, self.text = [], [], ''
    self.feed(text)
    assert not self.open, self.open

  def handle_starttag(self, tag, attrs):
    self.tags.append((tag, dict(attrs)))
    if tag not in self.VOID:
      self.open.append(tag)

  def handle_endtag(self, tag):
    assert self.open.pop() == tag

  def handle_data(self, data):
    self.text += data


def test_document_is_well_formed_and_escapes_text():
  content = (
    page.paragraph('a < b', 'absent')
    + page.table(['', 'run "1"'], [['loss', '<script>'], ['a & b', '2']])
    + page.details('more', page.figure(page.bar('"x" <y>', 0.25, True), 'how & why'))
  )
  text = page.document('runs/<x>', 'one & only', [('First part', content), ('B', '')])
  reader = Reader(text)
  tags = [tag for tag, _ in reader.tags]
  assert 'script' not in tags
  for shown in ('runs/<x>', 'a < b', '<script>', 'a & b', 'how & why', '25.0 %'):
    assert shown in reader.text
  links = {a['href'] for tag, a in reader.tags if tag == 'a'}
  anchors = {'#' + a['id'] for tag, a in reader.tags if tag == 'h2'}
  assert links == anchors == {'#first-part', '#b'}


def test_nothing_is_fetched_from_elsewhere():
  image = np.zeros((2, 3, 3), np.uint8)
  text = page.document('t', '', [('A', page.picture(image, 'black'))])
  for _, attributes in Reader(text).tags:
    for name in ('src', 'href'):
      assert attributes.get(name, '#').startswith(('data:', '#'))
  assert 'http' not in text and '@import' not in text and 'url(' not in text


def test_picture_carries_the_pixels():
  image = np.random.default_rng(0).integers(0, 256, (4, 6, 3)).astype(np.uint8)
  [(tag, attributes)] = Reader(page.picture(image, 'a "noise"')).tags
  assert tag == 'img' and attributes['alt'] == 'a "noise"'
  assert (attributes['width'], attributes['height']) == ('6', '4')
  data = base64.b64decode(attributes['src'].removeprefix('data:image/png;base64,'))
  decoded = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
  np.testing.assert_array_equal(decoded[..., ::-1], image)
