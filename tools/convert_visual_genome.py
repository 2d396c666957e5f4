"""Converts Visual Genome to COCO's format, with its most frequent classes.

  python tools/convert_visual_genome.py data/visual_genome --classes 1000 --test 5000

The folder holds image_data.json and objects.json. This writes train_1000.json and
val_1000.json to it, which `coco.Coco` and `CocoAP` read, with the folder for images:
file names start with VG_100K or VG_100K_2. Classes are the most frequent first names of
objects. The images with the highest ids are kept for evaluation; the split of published
tables is not known. The counts of objects that are left out are printed.
"""

import pathlib
from collections.abc import Sequence

from big_vision_like import errors, files
from big_vision_like.data.prepare import visual_genome


@errors.told_plainly
def main(argv: Sequence[str] | None = None) -> None:
  """Writes both files; prints what they hold."""
  parser = errors.parser(__doc__)
  parser.add_argument('folder', type=pathlib.Path, help='folder of the json files')
  parser.add_argument(
    '--classes', type=int, default=1000, help='number of classes; default: 1000'
  )
  parser.add_argument(
    '--test', type=int, default=5000, help='images for evaluation; default: 5000'
  )
  args = parser.parse_args(argv)
  image_data, objects = args.folder / 'image_data.json', args.folder / 'objects.json'
  classes = visual_genome.frequent_classes(objects, args.classes)
  truth, left_out = visual_genome.detection(image_data, objects, classes)
  for name, part in zip(
    ('train', 'val'), visual_genome.split(truth, args.test), strict=True
  ):
    path = args.folder / f'{name}_{args.classes}.json'
    files.write_json(path, part, indent=None)
    images, found = len(part['images']), len(part['annotations'])
    print(f'{path}: {images:,} images, {found:,} objects')
  for reason, count in left_out.items():
    print(f'left out: {errors.plural(count, "object")} {reason}')


if __name__ == '__main__':
  raise SystemExit(main())
