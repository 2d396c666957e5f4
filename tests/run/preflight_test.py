"""Faults planted in configs: all are told at once, before anything starts."""

import copy
import dataclasses
import re

import cv2
import film
import jax
import numpy as np
import pytest
import texts
import tiny_config

from big_vision_like import cli
from big_vision_like.data.input import alternating, mixture, pipeline
from big_vision_like.data.procedural import sequences
from big_vision_like.data.sources import tfds, videos
from big_vision_like.data.sources.base import Source
from big_vision_like.data.text import vocabulary
from big_vision_like.data.transforms import image, labels, text
from big_vision_like.errors import BadRecordError, UserError
from big_vision_like.evals import classification, fewshot, translation
from big_vision_like.models import transformer
from big_vision_like.run import experiment, findings, preflight
from big_vision_like.spec import spec
from big_vision_like.tasks import seq2seq, task


@dataclasses.dataclass(frozen=True)
class Pictures(Source):
  """Grey pictures with labels 0 to 9 in turn, of which some are not as they should."""

  corrupt: tuple[int, ...] = ()
  lost: tuple[int, ...] = ()
  wide_from: int = 100
  odd_label: int | None = None

  def __len__(self):
    return 100

  def __getitem__(self, index):
    if index in self.lost:
      raise BadRecordError(f'record {index} is lost')
    size = (9 if index >= self.wide_from else 8, 8)
    data = cv2.imencode('.png', np.full(size, index, np.uint8))[1].tobytes()
    label = self.odd_label if index == 50 and self.odd_label else index % 10
    encoded = data[:20] if index in self.corrupt else data
    return {'image': encoded, 'label': np.int64(label), 'id': index}


def eval_input(source, *transforms):
  steps = [spec(image.Decode, channels=1), *transforms]
  return spec(pipeline.EvalInput, source=source, transforms=steps, batch_size=8)


def accuracy(source, *transforms):
  return spec(classification.Accuracy, data=eval_input(source, *transforms))


def digits(split='train', **arguments):
  return spec(tfds.Tfds, name='digits', split=split, **arguments)


def config_of(**evals):
  config = tiny_config.get_config()
  config.evals = evals
  return config


def sentence(config, training=True):
  """The one thing that is wrong."""
  [(told, _)] = preflight.check(config, training).told
  return told


def test_all_is_well(data_dir, capsys):
  made = preflight.require(tiny_config.get_config())
  assert made.keys() == {'config.train_data', 'config.evals.val.data'}
  first, *lines = capsys.readouterr().out.splitlines()
  assert re.fullmatch(r'inputs    2 sources of examples tried in \d+\.\d s', first)
  assert lines == [
    '  input           data set      split  examples  features                first'
    ' example',
    '  train_data      digits 1.0.0  train     1,347  image, label of 10, id  PNG 8x8'
    ' grey   ok',
    '  evals.val.data  digits 1.0.0  test        450  image, label of 10, id  PNG 8x8'
    ' grey   ok',
  ]


def test_a_run_reads_what_was_tried(data_dir):
  made = preflight.require(tiny_config.get_config())
  run = experiment.make(tiny_config.get_config(), inputs=made)
  assert run.data is made['config.train_data']
  assert run.evaluators['val'].data is made['config.evals.val.data']
  assert run.evaluators['val'].every == 21


def test_all_faults_are_told_at_once(data_dir, tmp_path, capsys):
  none = str(tmp_path)
  tokenize = spec(
    text.Tokenize,
    vocabulary=spec(vocabulary.SentencePiece, path=f'{none}/words.model'),
    source='de',
    target='en',
  )
  config = config_of(
    fine=accuracy(digits('test')),
    missing=accuracy(digits('test', data_dir=none)),
    split=accuracy(digits('tset')),
    count=accuracy(digits('test', examples=7)),
    corrupt=accuracy(spec(Pictures, corrupt=(0,))),
    feature=accuracy(digits('test'), spec(labels.Label, name='label_azimuth')),
    no_label=accuracy(digits('test'), spec(labels.Keep, names=('image',))),
    words=spec(
      translation.Bleu,
      data=spec(
        pipeline.EvalInput,
        source=spec(tfds.Tfds, name=_pairs(tmp_path / 'pairs'), data_dir=none),
        transforms=[tokenize],
        batch_size=8,
      ),
      vocabulary=tokenize.vocabulary,
      target='en',
    ),
    unknown=accuracy(spec(tfds.Tfds, name='digitz')),
    argument=accuracy(digits('test'), spec(image.Resize, size=8, method='cubist')),
  )
  config.evals.words.data.source.data_dir = f'{none}/pairs'
  config.task.model.num_classes = 5
  capsys.readouterr()
  with pytest.raises(UserError) as error:
    preflight.require(config)
  wanted = [
    f"data set 'digits' is not at {none}/digits/1.0.0. Prepare it with:"
    f' python tools/prepare_data.py digits --data-dir {none}',
    'train_data, evals.fine.data: the data have 10 classes, so labels from 5 on a',
    'evals.argument.data',
    'evals.corrupt.data: the image of the example with id 0 cannot be decoded',
    "evals.count.data: digits 'test' holds 450 examples, not the 7 that the config giv",
    "evals.feature.data: examples have no 'label_azimuth'; they have",
    "evals.no_label.data: examples have no 'label', which the evaluator needs; they ha",
    "evals.split.data: digits has no split 'tset'; it has",
    "evals.unknown.data: TFDS knows no data set 'digitz'",
    f'evals.words.data: there is no vocabulary {none}/words.model. Make it with: pyth',
  ]
  head, *told = str(error.value).splitlines()
  assert head == f'{len(wanted)} things are wrong with the inputs.'
  found = [re.sub(r'^  \d+\. (config\.)?', '', line) for line in told]
  for start in wanted:
    assert sum(line.startswith(start) for line in found) == 1, (start, found)
  assert 'out of range: the model has 5 classes' in str(error.value)
  # Each row of the table says which sentences are about it.
  _, header, *rows = capsys.readouterr().out.splitlines()
  assert header.split()[0] == 'input' and len(rows) == 11
  for row in rows:
    place = row.split()[0]
    number = int(re.search(r'see (\d+)$', row)[1])
    assert place in told[number - 1] or place == 'evals.missing.data', row
  assert [row.split()[0] for row in rows if row.endswith(' 1')] == [
    'evals.missing.data'
  ]


def _pairs(folder):
  return texts.prepared(texts.TinyTranslation, folder)


def test_all_missing_data_sets_are_one_command(data_dir, tmp_path):
  here, there = str(tmp_path / 'a'), str(tmp_path / 'b')
  config = config_of(
    present=accuracy(digits('test')),
    again=accuracy(digits('test', data_dir=here)),
    other=accuracy(spec(tfds.Tfds, name='glyphs/32', data_dir=here)),
  )
  config.train_data.source = digits(data_dir=here)
  with pytest.raises(UserError) as error:
    preflight.require(config)
  assert str(error.value) == (
    "data sets 'digits', 'glyphs/32' are not prepared. Prepare them with:"
    f' python tools/prepare_data.py digits glyphs/32 --data-dir {here}'
  )
  config.evals.other.data.source.data_dir = there
  both = sentence(config)
  for name, folder in (('digits', here), ('glyphs/32', there)):
    assert f'prepare_data.py {name} --data-dir {folder}' in both
  config.evals.other.data.source = digits(data_dir=there)
  told = sentence(config)
  assert told.startswith("data sets 'digits' are not prepared")
  assert f'digits --data-dir {here} && ' in told and told.endswith(there)
  config.evals = {}
  assert sentence(config).startswith(f"data set 'digits' is not at {here}/digits/1.0.0")


def test_without_training_evaluators_alone_are_tried(data_dir):
  config = config_of(val=accuracy(digits('tset')))
  config.train_data.source.name = 'digitz'
  assert 'tset' in sentence(config, training=False)
  assert len(preflight.check(config).told) == 2


def test_a_label_out_of_range_is_found_among_pictures_that_are_not_decoded(data_dir):
  config = config_of()
  config.train_data.source = spec(Pictures, corrupt=tuple(range(1, 99)), odd_label=12)
  # Of pictures 0, 49 and 99 one is corrupt, as training would find out.
  odd = [i for i in preflight.spread(Pictures()) if i == 50]
  assert len(odd) == 1
  assert sentence(config).startswith('train_data: label 12 of the example with id 50')


def test_labels_that_are_computed_are_checked(data_dir):
  binned = spec(labels.Binned, name='label', values=10, classes=2)
  config = config_of()
  config.train_data.transforms = [spec(image.Decode, channels=1), binned]
  config.task.model.num_classes = 2
  assert preflight.check(config).told == []  # as computed, not as stored
  config.task.model.num_classes = 1
  assert 'label 1 of the example' in sentence(config)
  config.train_data.transforms[1]['values'] = 9
  assert 'at least 0 and below values=9' in sentence(config)


def test_classes_of_the_data_are_counted(data_dir):
  config = config_of()
  # One example, of a class that the model knows.
  some = next(i for i in range(30) if tfds.Tfds('digits')[i]['label'] < 6)
  config.train_data.source.split = f'train[{some}:{some + 1}]'
  config.task.model.num_classes = 6
  assert sentence(config) == (
    'train_data: the data have 10 classes, so labels from 6 on are out of range:'
    ' the model has 6 classes (0 to 5); set task.model.num_classes to 10.'
  )
  config.task.model.num_classes = 12
  assert preflight.check(config).told == []


def test_probes_have_classes_of_their_own(data_dir):
  config = config_of(
    probe=spec(
      fewshot.FewShot,
      data=eval_input(spec(Pictures)),
      train=eval_input(digits()),
    )
  )
  config.train_data.source.split = 'train[:1]'
  config.train_data.transforms.append(
    spec(labels.Binned, name='label', values=10, classes=2)
  )
  config.task.model.num_classes = 2
  assert preflight.check(config).told == []


def test_inputs_beside_one_that_cannot_be_built_are_tried(data_dir):
  probe = spec(
    fewshot.FewShot,
    data=eval_input(digits(), spec(image.Resize, size=8, method='cubist')),
    train=eval_input(digits('tset')),
  )
  [(first, _), (second, _)] = preflight.check(config_of(probe=probe)).told
  assert first.startswith('config.evals.probe.data.transforms[1] (Resize): method')
  assert second.startswith("evals.probe.train: digits has no split 'tset'")


@pytest.mark.parametrize(
  'transforms, told',
  [
    ([], "'image' are bytes, which no batch can hold: decode them"),
    (
      [spec(image.Resize, size=4)],
      'Resize cannot take an example of id (int), image (bytes), label (int): error at',
    ),
    ([spec(image.Decode, channels=1), spec(image.RandomCrop, size=9)], 'RandomCrop(si'),
    (
      [spec(image.Decode, channels=1), spec(labels.Keep, names=('image',))],
      "examples have no 'label', which Classification needs; they have image",
    ),
  ],
)
def test_transforms_that_do_not_fit(data_dir, transforms, told):
  config = config_of()
  config.train_data.transforms = transforms
  assert sentence(config).startswith(f'train_data: {told}')
  assert '\n' not in sentence(config)


def test_pictures_of_several_sizes(data_dir):
  config = config_of()
  config.train_data.source = spec(Pictures, wide_from=80)
  assert "train_data: 'image' has several shapes (8x8x1, 9x8x1)" in sentence(config)
  config.train_data.transforms.append(spec(image.Resize, size=8))
  assert preflight.check(config).told == []


def test_bad_records_are_left_to_training_but_the_first(data_dir):
  config = config_of()
  config.train_data.source = spec(Pictures, lost=tuple(range(1, 60)))
  assert preflight.check(config).told == []
  config.train_data.source = spec(Pictures, lost=(0,))
  found = preflight.check(config)
  assert found.told == [('train_data: record 0 is lost', ['train_data'])]
  assert 'unreadable' in found.table[1]
  config = config_of(val=accuracy(spec(Pictures, lost=(99,))))
  assert sentence(config) == 'evals.val.data: record 99 is lost'


def test_parts_of_a_mixture_are_tried_one_by_one(data_dir):
  grey = [spec(image.Decode, channels=1)]
  config = config_of()
  config.train_data.transforms = [spec(labels.Keep)]
  config.train_data.source = spec(
    mixture.Mixture,
    parts=dict(
      scans=spec(mixture.Part, source=digits(), transforms=grey),
      drawn=spec(mixture.Part, source=spec(Pictures), transforms=grey),
    ),
  )
  found = preflight.check(config)
  assert [row.place for row in found.rows] == [
    'train_data.source.parts.drawn',
    'train_data.source.parts.scans',
  ]
  assert found.told == []
  config.train_data.source.parts.drawn.transforms = [
    *grey,
    spec(image.Resize, size=9),
  ]
  assert "'image' has several shapes (9x9x1, 8x8x1)" in sentence(config)
  config.train_data.source.parts.scans.source.split = 'tset'
  assert sentence(config).startswith(
    "train_data.source.parts.scans: digits has no split 'tset'"
  )


@dataclasses.dataclass
class Several(task.Task):
  """A task of several inputs; what its parts check is printed."""

  def init(self, key, batch):
    raise NotImplementedError

  train_step = predict = networks = optimizers = init

  def part(self, name):
    part = Several()
    part.name = name
    return part

  def check(self, batch):
    print('checked', self.name, batch['label'].shape)
    if self.name == 'odd':
      batch['missing']  # noqa: B018


def test_several_inputs_are_tried_one_by_one(data_dir, capsys):
  config = config_of()
  one = config.train_data.to_dict()
  config.task = spec(Several)
  config.train_data = spec(
    alternating.Alternating, inputs=dict(digits=one, drawn=copy.deepcopy(one))
  )
  config.train_data.inputs.drawn.source = spec(Pictures)
  found = preflight.check(config)
  assert found.told == []
  places = ['train_data.inputs.digits', 'train_data.inputs.drawn']
  assert [row.place for row in found.rows] == places
  assert found.made.keys() == {'config.train_data', *(f'config.{p}' for p in places)}
  whole = found.made['config.train_data']
  assert whole.parts['drawn'] is found.made['config.train_data.inputs.drawn']
  said = capsys.readouterr().out
  assert 'checked digits (64,)' in said and 'checked drawn (64,)' in said
  config.train_data.shares = dict(digits=0.5, drawn=0.6)
  assert sentence(config).endswith('(Alternating): shares sum to 1.1, not to 1')
  config.train_data.shares.drawn = 0.5
  config.train_data.inputs.drawn.source = spec(Pictures, lost=(0,))
  assert sentence(config) == 'train_data.inputs.drawn: record 0 is lost'
  config.train_data.inputs.drawn.batch_sizes = 3
  assert sentence(config).startswith('config.train_data.inputs.drawn (TrainInput)')
  config.train_data = spec(alternating.Alternating, inputs=dict(odd=one))
  wanted = "train_data.inputs.odd: examples have no 'missing', which Several needs"
  assert sentence(config).startswith(wanted)


def test_texts_are_tried_through_their_vocabulary(tmp_path, vocabulary):
  config = config_of()
  config.train_data = spec(
    pipeline.TrainInput,
    source=spec(tfds.Tfds, name=_pairs(tmp_path), data_dir=str(tmp_path)),
    transforms=[
      spec(
        text.Tokenize,
        vocabulary=spec(type(vocabulary), path=vocabulary.path),
        source='de',
        target='en',
      ),
      spec(text.Pad, source_length=40, target_length=40),
    ],
    batch_size=8,
  )
  model = spec(
    transformer.Transformer, vocab_size=150, width=8, depth=1, num_heads=1, mlp_dim=8
  )
  config.task = spec(seq2seq.Seq2Seq, model=model, optimizer=config.task.optimizer)
  found = preflight.check(config)
  assert found.told == []
  assert "  'Der Hund sieht den Hund.'  ok" in found.table[1]
  config.task.model.vocab_size = 100
  assert sentence(config).startswith('train_data: source (64, 40) has the token id')
  config.task.model.vocab_size = 150
  config.train_data.transforms[1].source_length = 5
  assert sentence(config).startswith('train_data: ')


def test_inputs_that_do_the_same_share_a_line(data_dir):
  config = config_of(one=accuracy(digits('test')), two=accuracy(digits('test')))
  rows = preflight.check(config).table[1:]
  assert [row.split('  ')[0] for row in rows] == [
    'train_data',
    'evals.one.data, evals.two.data',
  ]
  rows = preflight.check(
    config_of(**{f'evaluator_{i}': accuracy(digits('test')) for i in range(4)})
  ).table
  assert rows[2].startswith('evals.evaluator_0.data and 3 more  ')


def test_a_long_table_is_left_out_where_all_is_well(data_dir, capsys):
  config = config_of(
    **{f'v{i}': accuracy(digits(f'test[{i}:]')) for i in range(findings.FEW_ROWS)}
  )
  preflight.require(config)
  assert len(capsys.readouterr().out.splitlines()) == 1
  preflight.check(config).report()
  assert len(capsys.readouterr().out.splitlines()) == findings.FEW_ROWS + 3
  config.evals.v3.data.source.split = 'tset'
  with pytest.raises(UserError):
    preflight.require(config)
  assert len(capsys.readouterr().out.splitlines()) == findings.FEW_ROWS + 3


def test_packages_that_are_missing(vocabulary, monkeypatch):
  monkeypatch.setattr(translation.importlib.util, 'find_spec', lambda name: None)
  bleu = translation.Bleu(data=None, vocabulary=vocabulary, target='en')
  assert bleu.problems() == [translation.NO_SACREBLEU]
  found = findings.Findings()
  preflight.collect_problems(found, bleu, 'evals.bleu')
  assert found.told == [(f'evals.bleu: {translation.NO_SACREBLEU}', ['evals.bleu'])]
  assert found.table[1].split() == ['evals.bleu', 'see', 'below']


def test_a_record_without_a_name_for_what_it_is():
  reverse = sequences.Reverse(examples=10, split='train')
  assert preflight.first_look(reverse[0]) == 'source 13, target 13, id'
  assert preflight.first_look({'image': np.zeros((4, 6, 3), np.uint8)}) == '4x6x3'
  assert preflight.first_look({'image': b'x', 'label': 3}) == 'unreadable'
  data = cv2.imencode('.jpg', np.zeros((4, 6, 3), np.uint8))[1].tobytes()
  assert preflight.first_look({'video': [data] * 5}) == '5 x JPEG 6x4'


def test_a_video_in_a_file_or_a_folder(tmp_path):
  path = tmp_path / 'a.webm'
  path.write_bytes(film.written('webm', 'libvpx', count=2))
  assert preflight.first_look({'video': path, 'label': 3}) == 'WEBM 64x48'
  path.write_bytes(b'no video')
  assert preflight.first_look({'video': path, 'label': 3}) == 'unreadable'
  frames = tmp_path / 'frames'
  frames.mkdir()
  for number in range(3):
    cv2.imwrite(str(frames / f'{number}.jpg'), np.zeros((4, 6, 3), np.uint8))
  assert preflight.first_look({'video': videos.opened(frames)}) == '3 x JPEG 6x4'


def test_records_that_are_cheap_only_together():
  class Groups(Pictures):
    groups = np.array([0, 7, 50, 100])

  assert preflight.spread(Groups()) == list(range(7))
  spread = preflight.spread(Pictures())
  assert len(spread) == preflight.SAMPLE and (spread[0], spread[-1]) == (0, 99)


@pytest.mark.parametrize('split, status', [('train', 0), ('trian', 1)])
def test_the_command(data_dir, capsys, monkeypatch, split, status):
  monkeypatch.setattr(cli, 'set_up_jax', lambda: None)
  words = ['--config=tests/tiny_config.py', f'--config.train_data.source.split={split}']
  assert preflight.main(words) == status
  told = capsys.readouterr()
  assert 'evals.val.data' in told.out
  assert ("error: train_data: digits has no split 'trian'" in told.err) == (status == 1)
  assert preflight.main([*words, '--evaluators']) == 0
  assert 'train_data' not in capsys.readouterr().out


def test_plans_need_no_data():
  config = config_of(val=accuracy(digits(data_dir='/nowhere')))
  config.train_data.source = digits(data_dir='/nowhere', examples=100)
  made = experiment.make(config, planned_for=jax.devices())
  assert len(made.data.source) == 100
