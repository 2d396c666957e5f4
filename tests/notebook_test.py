"""Tests that the notebook's cells run in order in one process, with correct results."""

import json
import pathlib

FILE = pathlib.Path(__file__).parent.parent / 'notebooks' / 'first_hour.ipynb'
# A notebook is JSON: the program runs the code cells in one namespace.
PROGRAM = """
import json, pathlib, sys
cells = json.loads(pathlib.Path(sys.argv[1]).read_text())['cells']
names = {'__name__': '__main__'}
for number, cell in enumerate(cells):
  if cell['cell_type'] == 'code':
    exec(compile(''.join(cell['source']), f'cell {number}', 'exec'), names)
print(json.dumps({
  'top1': names['results']['test/top1'],
  'accuracy': float(names['accuracy']),
  'found': names['found'],
  'label': int(names['example']['label']),
  'picture': names['pictures'][''].shape,
}))
"""


def test_the_notebook_runs(spawn):
  done = spawn('-c', PROGRAM, str(FILE))
  assert done.returncode == 0, done.stderr
  found = json.loads(done.stdout.splitlines()[-1])
  # Chance is 10 %. The loop over the test scans gives the accuracy of the evaluator.
  assert found['accuracy'] > 0.7
  assert abs(found['accuracy'] - found['top1']) < 0.005
  assert len(found['found']) == 3 and found['picture'][2] == 3


def test_the_notebook_is_saved_without_outputs_and_with_links_that_exist():
  cells = json.loads(FILE.read_text())['cells']
  for cell in cells:
    if cell['cell_type'] == 'code':
      assert cell['outputs'] == [] and cell['execution_count'] is None
      assert not any(line.startswith(('!', '%')) for line in cell['source'])
  text = ''.join(''.join(cell['source']) for cell in cells)
  for part in text.split('](')[1:]:
    assert (FILE.parent / part.partition(')')[0]).exists(), part[:40]
