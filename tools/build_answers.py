"""Builds the vocabulary of answers that VQA or GQA models choose from.

  python tools/build_answers.py v2_mscoco_train2014_annotations.json \
      v2_mscoco_val2014_annotations.json --out vocabularies/vqa_answers.txt
  python tools/build_answers.py train_balanced_questions.json --gqa --least 1 \
      --out vocabularies/gqa_answers.txt

For VQA, an answer is in the vocabulary if it is the most common one of at least --least
questions, after normalization: 3,129 answers of train2014 and val2014 with 9, the
published number. For GQA, answers are taken as they are. Answers are in the order of
their first occurrence, one per line.
"""

import collections
import os
import pathlib
from collections.abc import Sequence

from big_vision_like import errors, files
from big_vision_like.data.sources import language, vqa
from big_vision_like.errors import UserError


@errors.told_plainly
def main(argv: Sequence[str] | None = None) -> None:
  """Writes the vocabulary; prints the number of answers."""
  parser = errors.parser(__doc__)
  parser.add_argument('annotations', nargs='+', help='.json files with answers')
  parser.add_argument(
    '--out', type=pathlib.Path, required=True, help='text file to write'
  )
  parser.add_argument(
    '--least',
    type=int,
    default=vqa.LEAST,
    help=f'occurrences that an answer needs; default: {vqa.LEAST}',
  )
  parser.add_argument('--gqa', action='store_true', help='the files are those of GQA')
  args = parser.parse_args(argv)
  read = of_gqa if args.gqa else of_vqa
  answers = read(args.annotations, args.least)
  if not answers:
    raise UserError(f'no answer occurs {args.least} times: lower --least')
  files.write(args.out, ''.join(f'{answer}\n' for answer in answers))
  print(f'{args.out}: {errors.plural(len(answers), "answer")}')


def of_vqa(paths: Sequence[str], least: int) -> list[str]:
  """Returns the frequent answers of annotations of VQA."""
  entries = [entry for path in paths for entry in vqa.annotations_in(path)]
  return vqa.frequent(entries, least)


def of_gqa(paths: Sequence[str], least: int) -> list[str]:
  """Returns the frequent answers of questions of GQA."""
  counts: collections.Counter[str] = collections.Counter()
  for path in paths:
    for key, entry in files.read_fields(os.path.expanduser(path)).items():
      counts.update(language.fields(entry, ['answer'], f'question {key} of {path}'))
  return [answer for answer, count in counts.items() if count >= least]


if __name__ == '__main__':
  raise SystemExit(main())
