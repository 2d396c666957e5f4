import json

import pytest

from big_vision_like.data.text import words
from tools import count_words


def write(path):
  sentences = [{'raw': 'A dog, a dog.', 'tokens': ['a', 'dog', 'a', 'dog']}]
  images = [
    {'filename': '1.jpg', 'split': split, 'sentences': sentences}
    for split in ('train', 'val')
  ]
  images[0]['sentences'] = sentences + [{'tokens': ['a', 'cat']}]
  path.write_text(json.dumps({'images': images}))
  return str(path)


def test_frequent_words_of_the_training_captions_are_written(tmp_path, capsys):
  out = tmp_path / 'words.json'
  arguments = [write(tmp_path / 'd.json'), '--out', str(out), '--least=2']
  assert count_words.main(arguments) == 0
  assert words.Words(path=str(out)).ids == words.numbered(['a', 'dog'])
  said = capsys.readouterr().out
  assert '2 words and 4 other ids, of 2 captions; 16.67 % of their words' in said
  assert count_words.main(arguments) == 1
  assert 'already exists; --overwrite' in capsys.readouterr().err


@pytest.mark.parametrize('option', ['--least=9', '--splits=nothing'])
def test_no_words(option, tmp_path, capsys):
  out = tmp_path / 'words.json'
  assert count_words.main([write(tmp_path / 'd.json'), f'--out={out}', option]) == 1
  assert 'correct --splits, or lower --least' in capsys.readouterr().err
  assert not out.exists()
