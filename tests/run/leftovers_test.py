import os
import signal
import subprocess
import sys

from big_vision_like import files
from big_vision_like.run import leftovers

# Writes a file and a folder, and is killed while writing both.
KILLED = """
import os, sys, signal
from big_vision_like import files
with files.atomic(sys.argv[1] + '/config.json') as part:
  part.write_text('{"half')
  with files.atomic(sys.argv[1] + '/checkpoints/7') as folder:
    folder.mkdir()
    (folder / 'array').write_text('half')
    os.kill(os.getpid(), signal.SIGKILL)
"""


def test_half_written_files_are_removed(tmp_path):
  run = tmp_path / 'run'
  killed = subprocess.run([sys.executable, '-c', KILLED, str(run)])
  assert killed.returncode == -signal.SIGKILL
  kept = ['config.json', 'notes.part', 'my.0123abcd.part.txt', 'checkpoints/5/array']
  for name in kept:
    files.write(run / name, 'whole')
  outside = tmp_path / 'outside'
  files.write(outside / 'a.01234567.part', 'of somebody else')
  (run / 'link').symlink_to(outside)
  (run / 'link.01234567.part').symlink_to(outside)

  removed = leftovers.clean(run)
  assert [name.partition('.')[0] for name in removed] == [
    'checkpoints/7',
    'config',
    'link',
  ]
  found = [
    os.path.relpath(os.path.join(folder, name), run)
    for folder, _, names in os.walk(run)
    for name in names
  ]
  assert sorted(found) == sorted(kept)
  assert (outside / 'a.01234567.part').exists()
  assert leftovers.clean(run) == leftovers.clean(tmp_path / 'nothing') == []
