"""Writes a graph of classes for models that reason over classes.

  python tools/build_class_graph.py relation data/visual_genome/relationships.json \
      --classes data/coco/annotations/instances_train2017.json \
      --normalize symmetric --most 200 --out graphs/coco_relation.npz

Three kinds of graphs:
  relation       how often classes are related: Visual Genome's relationships.json, or
                 a .csv or .tsv of subject, relation and object, without a header
  attribute      how similar the attributes of classes are: Visual Genome's
                 attributes.json, or a .csv or .tsv of class and attribute, a line for
                 each object that has it
  cooccurrence   in how many images both classes are: annotations in COCO's format

--classes is a file of annotations in COCO's format, or a text file with a name per
line; Visual Genome's own names are read in lower case. Other names in the data are
ignored. --normalize is `none`
(counts or similarities), `symmetric` (D^-1/2 A D^-1/2) or `row` (rows sum to 1); see
`data/class_graph.py` for A and D. The graphs of Reasoning-RCNN are symmetric relations
and unnormalized attributes. The file carries the names, so it fits classes in any
order.
"""

import csv
import pathlib
from collections.abc import Sequence

from big_vision_like import errors
from big_vision_like.data import class_graph
from big_vision_like.data.prepare import visual_genome
from big_vision_like.data.sources import coco_json
from big_vision_like.errors import UserError

TABLES = {'.csv': ',', '.tsv': '\t'}


def rows(path: pathlib.Path, columns: int) -> list[list[str]]:
  """Returns the rows of a table, each with this number of columns."""
  found = []
  with path.open(newline='', encoding='utf-8') as file:
    for number, row in enumerate(csv.reader(file, delimiter=TABLES[path.suffix]), 1):
      if len(row) != columns or not all(map(str.strip, row)):
        raise UserError(f'{path}: line {number} has not {columns} texts')
      found.append([' '.join(text.split()) for text in row])
  return found


def names_of(path: pathlib.Path) -> list[str]:
  """Returns the names of classes in a file of annotations or of lines."""
  if path.suffix == '.json':
    return class_graph.categories(str(path))
  names = [line.strip() for line in path.read_text(encoding='utf-8').splitlines()]
  if not (names := [name for name in names if name]):
    raise UserError(f'{path} names no classes')
  return names


def shown(path: pathlib.Path) -> list[list[str]]:
  """Returns the classes of the objects of each image in COCO's format."""
  truth = coco_json.read_strictly(str(path))
  names = {entry['id']: entry.get('name') for entry in truth['categories']}
  found: dict[int, list[str]] = {}
  for entry in truth['annotations']:
    found.setdefault(entry['image_id'], []).append(names[entry['category_id']])
  return list(found.values())


def build(
  kind: str, path: pathlib.Path, names: Sequence[str], how: str, most: int | None
) -> class_graph.ClassGraph:
  """Returns the graph of a kind from a file."""
  if kind == 'cooccurrence':
    return class_graph.cooccurrence(shown(path), names, how)
  is_table = path.suffix in TABLES
  if kind == 'relation':
    found = rows(path, 3) if is_table else visual_genome.triples(path)
    return class_graph.relation(found, names, how, most)
  if not is_table:
    counts = visual_genome.attribute_counts(path)
  else:
    counts = {}
    for name, word in rows(path, 2):
      own = counts.setdefault(name, {})
      own[word] = own.get(word, 0) + 1
  return class_graph.attribute(counts, names, how, most)


@errors.told_plainly
def main(argv: Sequence[str] | None = None) -> None:
  """Writes the graph; prints its numbers of classes and edges."""
  parser = errors.parser(__doc__)
  parser.add_argument(
    'kind',
    choices=('relation', 'attribute', 'cooccurrence'),
    help='what connects two classes',
  )
  parser.add_argument('data', type=pathlib.Path, help='the file to count in')
  parser.add_argument(
    '--classes',
    type=pathlib.Path,
    required=True,
    metavar='FILE',
    help='names of the classes, in order',
  )
  parser.add_argument(
    '--normalize',
    required=True,
    choices=class_graph.NORMALIZATIONS,
    help='how edges are divided by the degrees of their classes',
  )
  parser.add_argument(
    '--most',
    type=int,
    metavar='N',
    help='use only the N most frequent relations or attributes; default: all',
  )
  parser.add_argument(
    '--out',
    type=pathlib.Path,
    required=True,
    metavar='FILE',
    help='the .npz or .json file to write',
  )
  args = parser.parse_args(argv)
  if args.most is not None and (args.most < 1 or args.kind == 'cooccurrence'):
    parser.error('--most is a positive number of relations or attributes')
  graph = build(args.kind, args.data, names_of(args.classes), args.normalize, args.most)
  args.out.parent.mkdir(parents=True, exist_ok=True)
  class_graph.write(args.out, graph)
  linked = (graph.edges > 0).sum(axis=1) > 1
  print(
    f'{args.out}: {len(graph.names):,} classes, {int((graph.edges > 0).sum()):,} edges,'
    f' {int((~linked).sum()):,} classes without an edge to another'
  )


if __name__ == '__main__':
  raise SystemExit(main())
