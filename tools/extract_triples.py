"""Reads triples out of texts, and finds what follows.

    python tools/extract_triples.py runs/fact_sentences \\
        --text "Anna leads Acme. Anna is a novgil. Every novgil is a pelras." --follows
    python tools/extract_triples.py runs/fact_sentences --file news.txt --out news.nt \\
        --axioms axioms.nt --follows --reasoner runs/random_graphs

The run finds entities and relations (docs/relations.md). Relations become predicates of
triples; `rdf:type` and `rdfs:subClassOf` are those of RDFS. --axioms adds the triples
of a graph, such as the domains of predicates. --follows lists what follows under RDFS,
found by forward chaining, with the depth of reasoning. --reasoner adds the probability
by a memory network that was trained on entailment (docs/entailment.md).
"""

import argparse
import pathlib
from collections.abc import Sequence

from big_vision_like import cli, errors, files
from big_vision_like.data import rdfs
from big_vision_like.errors import UserError, plural, told_plainly
from big_vision_like.inference import entailment, loading, triples


def texts_of(args: argparse.Namespace) -> str:
  """Returns the texts of the command line and of the file."""
  texts = list(args.text)
  if args.file:
    path = pathlib.Path(args.file)
    if not path.is_file():
      raise UserError(f'there is no text {path}')
    texts.append(path.read_text(encoding='utf-8'))
  if not any(text.strip() for text in texts):
    raise UserError('give a text with --text, or a file with --file')
  return '\n'.join(texts)


def asked(
  args: argparse.Namespace, graph: Sequence[rdfs.Triple]
) -> tuple[list[rdfs.Triple], list[str]]:
  """Returns the queries, and the verdict of forward chaining on each one."""
  depth = rdfs.closure(graph)
  queries, verdicts = [], []
  if args.follows:
    queries = sorted((t for t, d in depth.items() if d), key=lambda t: (depth[t], t))
    verdicts = [f'follows, depth {depth[query]}' for query in queries]
  for names in args.ask:
    query = tuple(map(triples.term, names))
    if query not in depth:
      verdicts.append('does not follow')
    else:
      found = depth[query]
      verdicts.append(f'follows, depth {found}' if found else 'is given')
    queries.append(query)
  return queries, verdicts


def run(args: argparse.Namespace) -> None:
  """Prints the triples of the texts, and the answers to queries."""
  extractor = triples.Extractor(loading.load_run(args.run))
  reasoner = None
  if args.reasoner:
    reasoner = entailment.Reasoner(loading.load_run(args.reasoner))
  sentences = list(extractor.read(triples.sentences_of(texts_of(args))))
  graph = triples.triples_of(sentences)
  print(f'{plural(len(sentences), "sentence")}, {plural(len(graph), "triple")}')
  for triple in graph:
    print('  ' + '  '.join(map(triples.shown, triple)))
  if args.axioms:
    graph += [triple for triple in rdfs.read(args.axioms) if triple not in graph]
  if args.out:
    lines = ''.join(f'{rdfs.line(triple)}\n' for triple in graph)
    files.write(pathlib.Path(args.out), lines.encode())
  queries, verdicts = asked(args, graph)
  if queries:
    print(f'{plural(len(queries), "query").replace("querys", "queries")}')
  shares = reasoner.probabilities(graph, queries) if reasoner and queries else None
  for number, (query, verdict) in enumerate(zip(queries, verdicts, strict=True)):
    text = '  '.join(map(triples.shown, query)) + f'  {verdict}'
    if shares is not None:
      text += f'  network {100 * shares[number]:.0f} %'
    print(f'  {text}')


@told_plainly
def main(argv: Sequence[str] | None = None) -> None:
  """Parses the command line and prints triples and answers."""
  parser = errors.parser(__doc__, allow_abbrev=False)
  add = parser.add_argument
  add('run', help='the folder of a run that finds relations')
  add('--text', nargs='+', default=[], help='texts of one or more sentences')
  add('--file', help='a file with such a text')
  add('--axioms', help='a graph (.nt, .ttl) whose triples are added')
  add('--out', help='the file of N-Triples to write (.nt)')
  add('--follows', action='store_true', help='list the triples that follow')
  add(
    '--ask',
    nargs=3,
    action='append',
    default=[],
    metavar=('SUBJECT', 'PREDICATE', 'OBJECT'),
    help='a triple to ask for; may be repeated',
  )
  add('--reasoner', help='the folder of a run on entailment, which answers too')
  args = parser.parse_args(argv)
  cli.set_up_jax()
  run(args)


if __name__ == '__main__':
  raise SystemExit(main())
