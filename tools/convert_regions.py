"""Converts stored features of image regions to the format that training reads.

  python tools/convert_regions.py tsv:'karpathy_*.tsv.*' --name coco_regions
  python tools/convert_regions.py arrays:features/flickr30k --name \
      flickr30k_regions --split train --half

tsv:FILES      tab-separated files of bottom-up attention, with 6 columns, or 7 with the
               class distributions that ViLBERT is trained on, or 10 as for LXMERT
arrays:FOLDER  an .npz for each image, named after its id, with boxes, features and the
               size of the image; pickled objects are never loaded

Regions of another width than the first, boxes outside of their image and damaged lines
are bad records: the command stops unless there are at most --bad-share of them. Rerun
the command to resume after a kill.
"""

import os
import pathlib
import re
from collections.abc import Sequence

from big_vision_like import errors
from big_vision_like.data.prepare import conversion
from big_vision_like.data.sources import region_files, tfds
from big_vision_like.errors import UserError

KINDS = {'tsv': region_files.Tsv, 'arrays': region_files.Arrays}


@errors.told_plainly
def main(argv: Sequence[str] | None = None) -> None:
  """Writes the records and the file of ids; prints where they are."""
  parser = errors.parser(__doc__)
  parser.add_argument('source', metavar='KIND:FILES', help='tsv:FILES or arrays:FOLDER')
  parser.add_argument('--name', required=True, help='name of the new data set')
  parser.add_argument('--split', default='train', help='split; default: train')
  parser.add_argument('--version', default='1.0.0', help='default: 1.0.0')
  parser.add_argument(
    '--data-dir', help='default: $TFDS_DATA_DIR, else ~/tensorflow_datasets'
  )
  parser.add_argument(
    '--half', action='store_true', help='store features as float16, in half the space'
  )
  parser.add_argument(
    '--bad-share',
    type=float,
    default=0.0,
    help='largest share of bad images to leave out; default: 0',
  )
  parser.add_argument(
    '--workers', type=int, help='number of processes; default: number of cores'
  )
  options = parser.parse_args(argv)
  kind, _, where = options.source.partition(':')
  if kind not in KINDS or not where:
    raise UserError(f'{options.source}: give tsv:FILES or arrays:FOLDER')
  if not re.fullmatch(r'[a-z]\w*', options.name):
    raise UserError(f'--name {options.name}: give a word in lowercase letters')
  raw = KINDS[kind](where)
  source = region_files.Encoded(raw, 'float16' if options.half else 'float32')
  folder = _data_dir(options.data_dir) / options.name / options.version
  conversion.convert(
    conversion.Input(
      source=lambda: source,
      name=f'{options.source} as {source.dtype}',
      files=source.files,
    ),
    conversion.Split(folder, options.name, options.split),
    workers=options.workers or os.cpu_count() or 1,
    bad_share=options.bad_share,
  )
  stored = tfds.Tfds(
    f'{options.name}:{options.version}', options.split, str(folder.parents[1])
  )
  count = region_files.write_ids(folder, options.split, stored)
  print(f'{folder}: regions of {errors.plural(count, "image")} in {options.split}')


def _data_dir(given: str | None) -> pathlib.Path:
  import tensorflow_datasets as tfds

  return pathlib.Path(given or tfds.core.constants.DATA_DIR).expanduser()


if __name__ == '__main__':
  raise SystemExit(main())
