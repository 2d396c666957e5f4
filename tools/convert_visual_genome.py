"""Converts Visual Genome to COCO's format, with its most frequent classes.

  python tools/convert_visual_genome.py data/visual_genome --classes 1000 --test 5000

The folder holds image_data.json and objects.json. This writes train_1000.json and
val_1000.json to it, which `coco.Coco` and `CocoAP` read, with the folder for images:
file names start with VG_100K or VG_100K_2. Classes are the most frequent first names of
objects. The images with the highest ids are kept for evaluation; the split of published
tables is not known. The counts of objects that are left out are printed.

  python tools/convert_visual_genome.py data/visual_genome --classes 1600 \
      --coco data/coco/annotations/instances_val2017.json --attributes 400

keeps the images of COCO's val2017 for evaluation instead. From attributes.json it also
writes attributes_400.json: the 400 most frequent attributes and those of each object,
on which UniT is trained.
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
  parser.add_argument(
    '--coco',
    type=pathlib.Path,
    help='annotations of COCO images for evaluation',
  )
  parser.add_argument(
    '--attributes', type=int, default=0, help='number of attributes; default: none'
  )
  args = parser.parse_args(argv)
  image_data, objects = args.folder / 'image_data.json', args.folder / 'objects.json'
  classes = visual_genome.frequent_classes(objects, args.classes)
  truth, left_out = visual_genome.detection(image_data, objects, classes)
  if args.coco:
    parts = visual_genome.split_by_coco(truth, image_data, args.coco)
  else:
    parts = visual_genome.split(truth, args.test)
  for name, part in zip(('train', 'val'), parts, strict=True):
    path = args.folder / f'{name}_{args.classes}.json'
    files.write_json(path, part, indent=None)
    images, found = len(part['images']), len(part['annotations'])
    print(f'{path}: {images:,} images, {found:,} objects')
  if args.attributes:
    path = args.folder / f'attributes_{args.attributes}.json'
    source = args.folder / 'attributes.json'
    found = visual_genome.attributes_of(source, truth, args.attributes)
    files.write_json(path, found, indent=None)
    print(f'{path}: attributes of {len(found["of"]):,} objects')
  for reason, count in left_out.items():
    print(f'left out: {errors.plural(count, "object")} {reason}')


if __name__ == '__main__':
  raise SystemExit(main())
