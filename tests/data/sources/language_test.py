import json
import pickle

import numpy as np
import pytest

from big_vision_like.data.sources import (
  caption_texts,
  expressions,
  language,
  region_features,
  statements,
  vcr,
  vqa,
)
from big_vision_like.errors import UserError
from tools import build_answers


def write(path, content):
  lines = content if isinstance(content, list) else None
  is_lines = path.suffix in ('.jsonl', '.tsv')
  text = '\n'.join(x if isinstance(x, str) else json.dumps(x) for x in lines or [])
  path.write_text(text if is_lines else json.dumps(content))
  return str(path)


# Computed by the published preparation of targets.
@pytest.mark.parametrize(
  'answer, expected',
  {
    'The dogs': 'dogs',
    't-shirt': 't shirt',
    '1,000': '1000',
    '3.5': '3.5',
    'dont know': "don't know",
    'U.S.A.': 'usa',
    'yes, no': 'yes no',
    'a/b': 'b',
    'two': '2',
    'none': '0',
    "somebody'd": 'somebodyd',
    "yall'll": "y'all'll",
    'New-York ': 'new york',
    '(3)': '3',
  }.items(),
)
def test_answers_are_normalized_as_published(answer, expected):
  assert vqa.normalized(answer) == expected


@pytest.mark.parametrize('count', range(1, 11))
def test_scores_are_the_official_accuracy(count):
  given = ['x'] * count + [f'other {i}' for i in range(10 - count)]
  assert vqa.official_score('x', given) == pytest.approx(vqa.score(count))
  assert vqa.official_score('y', given) == vqa.score(0) == 0


def vqa_files(tmp_path):
  given = {1: ['yes'] * 8 + ['no'] * 2, 2: ['red'] * 3 + ['blue'] * 7, 3: ['rare'] * 10}
  given |= {5: ['no'] * 10}
  questions = [
    {'question_id': key, 'image_id': image, 'question': text}
    for key, image, text in [
      *((3, 103, 'what?'), (1, 101, 'is it?'), (2, 102, 'which color?')),
      *((4, 101, 'unanswered?'), (6, None, 'where?'), (7, 101, ' ')),
    ]
  ]
  annotations = [
    {
      'question_id': key,
      'image_id': 101,
      'multiple_choice_answer': max(set(answers), key=answers.count),
      'answers': [{'answer': answer} for answer in answers],
    }
    for key, answers in given.items()
  ]
  return dict(
    questions=[write(tmp_path / 'questions.json', {'questions': questions})],
    annotations=[write(tmp_path / 'answers.json', {'annotations': annotations})],
  )


def test_vqa(tmp_path, capsys):
  paths, known = vqa_files(tmp_path), tmp_path / 'known.txt'
  arguments = [*paths['annotations'], '--out', str(known)]
  assert build_answers.main(arguments) == 1
  assert 'no answer occurs 9 times: lower --least' in capsys.readouterr().err
  assert build_answers.main([*arguments, '--least', '1']) == 0
  assert known.read_text().split() == ['yes', 'blue', 'rare', 'no']
  known.write_text('no\nblue\nyes\nred\n')
  with pytest.raises(UserError, match='4 of 7 entries cannot be used: .*without an im'):
    len(vqa.Vqa(**paths, answers=vqa.Answers(str(known))))
  source = vqa.Vqa(**paths, answers=vqa.Answers(str(known)), tolerated=0.6)
  assert source.left_out == {
    'questions without answers': 1,
    'questions without an image': 1,
    'questions without words': 1,
    'answers without a question': 1,
  }
  assert [example['id'] for example in source] == [1, 2, 3]
  assert source[0]['image_id'] == '101' and source[0]['labels'].tolist() == [2, 0]
  np.testing.assert_allclose(source[0]['scores'], [1.0, 0.6])
  np.testing.assert_allclose(source[1]['scores'], [0.9, 1.0])
  assert source[2]['labels'].tolist() == []
  assert '1 of 3 questions have no answer in the vocab' in source.remarks()[0]
  held = [
    [
      e['id']
      for e in vqa.Vqa(
        **paths, answers=vqa.Answers(str(known)), tolerated=0.9, held_out=1, **options
      )
    ]
    for options in ({}, {'only_held_out': True})
  ]
  assert held == [[1, 2], [3]]


def test_gqa(tmp_path):
  known = tmp_path / 'known.txt'
  known.write_text('no\nyes\n')
  entries = {
    '05': {'question': 'Is it?', 'imageId': '2386621', 'answer': 'yes'},
    '06': {'question': 'What?', 'imageId': 'n1', 'answer': 'pipe'},
  }
  path = write(tmp_path / 'gqa.json', entries)
  source = vqa.Gqa(path=path, answers=vqa.Answers(str(known)))
  assert [e['labels'].tolist() for e in source] == [[1], []]
  assert source[0]['image_id'] == '2386621' and source[0]['scores'].tolist() == [1.0]
  assert source.remarks()
  assert build_answers.of_gqa([path], 1) == ['yes', 'pipe']


def test_vocabularies_of_answers(tmp_path):
  with pytest.raises(UserError, match='python tools/build_answers.py'):
    len(vqa.Answers(str(tmp_path / 'none.txt')).names)
  (tmp_path / 'twice.txt').write_text('a\nb\na\n')
  with pytest.raises(UserError, match="'a' twice"):
    len(vqa.Answers(str(tmp_path / 'twice.txt')).names)


def karpathy(tmp_path):
  def image(name, split, *texts, **more):
    sentences = [{'raw': text} for text in texts]
    return {'filename': name, 'split': split, 'sentences': sentences} | more

  images = [
    image('COCO_1.jpg', 'train', 'A dog.', 'One dog', cocoid=102),
    image('x.jpg', 'test', 'A test', cocoid=9),
    image('y.jpg', 'restval', 'A cat', ' ', cocoid=101),
    image('5.jpg', 'train', 'Two'),
    image('6.jpg', 'train'),
  ]
  return write(tmp_path / 'dataset.json', {'images': images})


def test_captions_of_karpathys_splits(tmp_path):
  source = caption_texts.Karpathy(
    path=karpathy(tmp_path), split='train+restval', tolerated=0.5
  )
  found = [(e['caption'], e['image_id'], e['image_number'], e['id']) for e in source]
  assert found == [
    *(('A dog.', '102', 0, 0), ('One dog', '102', 0, 1)),
    *(('A cat', '101', 1, 2), ('Two', '5', 2, 3)),
  ]
  assert source.left_out == {'captions without words': 1, 'images without captions': 1}
  with pytest.raises(UserError, match="split='dev' is not one of train, val"):
    caption_texts.Karpathy(path='x', split='dev')


def test_conceptual_captions(tmp_path):
  lines = ['a dog\thttp://x', '\thttp://y', 'a cat\thttp://z\tcat-1', 'two\thttp://w']
  path = write(tmp_path / 'cc.tsv', lines)
  source = caption_texts.ConceptualCaptions(path=path, tolerated=0.5)
  assert [e['image_id'] for e in source] == ['0', 'cat-1', '3']
  assert source.left_out == {'captions without words': 1}
  part = caption_texts.ConceptualCaptions(path=path, tolerated=0.5, share=0.5)
  assert len(part) == 1
  write(tmp_path / 'cc.tsv', ['a dog', 'b\tc'])
  with pytest.raises(
    UserError, match='line 1 of .*cc.tsv has 1 columns, not a caption'
  ):
    len(caption_texts.ConceptualCaptions(path=path))


def test_vcr_in_both_stages(tmp_path):
  entry = {
    'question': ['Why', 'is', [0, 2], 'near', [1], '?'],
    'answer_choices': [['a'], ['b', [1]], ['c'], ['d']],
    'rationale_choices': [['e'], ['f'], [[2]], ['h']],
    'answer_label': 1,
    'rationale_label': 2,
    'img_id': 'train-0',
    'objects': ['person', 'car', 'person'],
  }
  path = write(tmp_path / 'vcr.jsonl', [entry])
  first, second = (vcr.Vcr(path=path, stage=stage)[0] for stage in vcr.STAGES)
  assert first['question'] == 'Why is casey riley near car ?'
  assert first['options'] == ['a', 'b car', 'c', 'd'] and first['label'] == 1
  assert second['question'] == [first['question'], 'b car'] and second['label'] == 2
  assert second['options'][2] == 'riley'
  assert first['image_id'] == second['image_id'] == 'train-0'
  write(tmp_path / 'vcr.jsonl', [entry | {'question': [[3]]}])
  with pytest.raises(UserError, match='line 1 .* the object 3 of 3 objects'):
    len(vcr.Vcr(path=path))
  write(tmp_path / 'vcr.jsonl', [entry | {'answer_label': 4}])
  with pytest.raises(UserError, match='4 choices with the right one 4'):
    len(vcr.Vcr(path=path))


def test_statements(tmp_path):
  line = {'identifier': 'dev-850-0-1', 'sentence': 'Two dogs.', 'label': 'True'}
  path = write(tmp_path / 'nlvr2.jsonl', [line, line | {'label': False}])
  first, second = statements.Nlvr2(path=path)
  assert (first['label'], second['label']) == (1, 0)
  assert language.images_of(first) == ['dev-850-0-img0', 'dev-850-0-img1']
  line = {'Flickr30K_ID': '36979', 'sentence2': 'A man', 'gold_label': 'entailment'}
  path = write(tmp_path / 've.jsonl', [line, line | {'gold_label': '-'}])
  source = statements.SnliVe(path=path, tolerated=0.5)
  assert source[0] == dict(sentence='A man', label=2, image_id='36979', id=0)
  assert source.left_out == {'sentences without agreement': 1}
  write(tmp_path / 've.jsonl', [{'sentence2': 'x'}])
  with pytest.raises(UserError, match="line 1 of .* has no 'Flickr30K_ID'; it has sen"):
    len(source.__class__(path=path))


@pytest.mark.parametrize('protocol', [0, 2, 'json'])
def test_expressions_of_a_plain_pickle(protocol, tmp_path):
  entries = [
    {
      'split': split,
      'ann_id': key,
      'image_id': 101,
      'sentences': [{'raw': 'left dog', 'sent': 'left dog'}, {'sent': 'it'}],
    }
    for split, key in (('train', 7), ('train', 8), ('testA', 7))
  ]
  boxes = {'annotations': [{'id': 7, 'bbox': [1, 2, 30, 40]}]}
  arguments = dict(instances=write(tmp_path / 'instances.json', boxes), tolerated=0.5)
  path = tmp_path / ('refs.json' if protocol == 'json' else 'refs(unc).p')
  if protocol == 'json':
    path.write_text(json.dumps(entries))
  else:
    path.write_bytes(pickle.dumps(entries, protocol))
  source = expressions.Expressions(references=str(path), split='train', **arguments)
  assert [e['expression'] for e in source] == ['left dog', 'it']
  assert source[0]['box'].tolist() == [1, 2, 31, 42]
  assert source.left_out == {'expressions without a box': 2}
  with pytest.raises(UserError, match="no split 'val'; it has testA, train"):
    len(expressions.Expressions(references=str(path), split='val', **arguments))


def test_a_pickle_that_would_run_code_is_refused(tmp_path):
  ran = tmp_path / 'ran'

  class Harmful:
    def __reduce__(self):
      return ran.__class__.touch, (ran,)

  with pytest.raises(UserError, match='not a pickle of plain data .it would run'):
    expressions.plain_pickle(pickle.dumps([Harmful()]), 'refs.p')
  assert not ran.exists()


class Two(language.Annotations):
  """Two captions of two images."""

  paths = ('two',)

  def read(self):
    examples = [
      {'caption': f'text {i}', 'image_id': image, 'image_number': i, 'id': i}
      for i, image in enumerate(('101', '102', '9'))
    ]
    return language.Read(examples, {})

  def trial(self, index, rng):
    return {'caption': language.words(rng), 'image_number': index % 8}


def regions_of(**options):
  import pathlib

  samples = pathlib.Path(__file__).parents[2] / 'samples'
  return region_features.RegionFeatures(
    'sample_regions', width=8, data_dir=str(samples), **options
  )


def test_images_without_stored_regions_are_counted_or_refused():
  with pytest.raises(UserError, match="1 of 3 examples of .* such as '9': convert"):
    len(language.WithRegions(Two(), regions_of()))
  source = language.WithRegions(Two(), regions_of(), tolerated=0.4)
  assert len(source) == 2
  assert source.left_out == {'examples whose image has no stored regions': 1}
  assert source[1]['caption'] == 'text 1' and source[1]['boxes'].shape == (2, 4)
  again = pickle.loads(pickle.dumps(source))
  assert again.fingerprint() == source.fingerprint()
  assert not source.problems()
  with pytest.raises(UserError, match='no regions of 1 of 3 images to retrieve .9.:'):
    len(language.ImagesOf(Two(), regions_of()))


def test_given_regions_precede_the_detected_ones():
  source = language.WithRegions(Two(), regions_of(), regions_of(), tolerated=0.4)
  example = source[1]
  assert example['num_detected'] == 2
  assert example['boxes'].shape == (4, 4) and example['classes'].shape == (4, 5)


def test_plans_need_no_files():
  missing = region_features.RegionFeatures('absent_regions', examples=30)
  source = language.WithRegions(Two(made_up=0, examples=40), missing)
  planned = source.planned()
  assert len(planned) == 40 and planned[17]['features'].shape[1] == 2048
  assert len(language.ImagesOf(Two(examples=40), missing).planned()) == 8


def test_packed_examples_are_a_list():
  examples = [{'id': i, 'labels': np.arange(i)} for i in range(3)]
  packed = language.Packed(examples)
  assert [example['id'] for example in packed] == [0, 1, 2] and len(packed) == 3
  assert packed[2]['labels'].tolist() == [0, 1]
  with pytest.raises(IndexError):
    packed[3]
  many = [{'caption': f'a red dog {i}', 'image_id': str(i), 'id': i} for i in range(99)]
  assert len(pickle.dumps(language.Packed(many))) < 99 * 150


def test_nearest_images():
  source = language.WithRegions(Two(), regions_of(), tolerated=0.4)
  found = caption_texts.nearest_images(source, 5)
  assert {k: v.tolist() for k, v in found.nearest.items()} == {0: [1], 1: [0]}
  rng = np.random.default_rng(0)
  assert found.hard(0, rng) == found.other(0, rng) == 1
