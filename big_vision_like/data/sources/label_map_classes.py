"""Classes of data sets with label maps: their names, and their values in the files."""

from collections.abc import Sequence
from typing import NamedTuple

from big_vision_like.data.sources import coco_classes

IGNORED = 255


class Classes(NamedTuple):
  """The names of classes in order, their values in files, and values without a class.

  Pixels with a value of `ignored` have no label. All other values are errors.
  """

  names: Sequence[str]
  values: Sequence[int]
  ignored: Sequence[int] = (IGNORED,)


# The 150 classes of the scene parsing challenge (arXiv:1608.05442); 0 is "other".
_ADE20K = """
wall; building; sky; floor; tree; ceiling; road; bed; windowpane; grass; cabinet;
sidewalk; person; earth; door; table; mountain; plant; curtain; chair; car; water;
painting; sofa; shelf; house; sea; mirror; rug; field; armchair; seat; fence; desk;
rock; wardrobe; lamp; bathtub; railing; cushion; base; box; column; signboard; chest of
drawers; counter; sand; sink; skyscraper; fireplace; refrigerator; grandstand; path;
stairs; runway; case; pool table; pillow; screen door; stairway; river; bridge;
bookcase; blind; coffee table; toilet; flower; book; hill; bench; countertop; stove;
palm; kitchen island; computer; swivel chair; boat; bar; arcade machine; hovel; bus;
towel; light; truck; tower; chandelier; awning; streetlight; booth; television receiver;
airplane; dirt track; apparel; pole; land; bannister; escalator; ottoman; bottle;
buffet; poster; stage; van; ship; fountain; conveyer belt; canopy; washer; plaything;
swimming pool; stool; barrel; basket; waterfall; tent; bag; minibike; cradle; oven;
ball; food; step; tank; trade name; microwave; pot; animal; bicycle; lake; dishwasher;
screen; blanket; sculpture; hood; sconce; vase; traffic light; tray; ashcan; fan; pier;
crt screen; plate; monitor; bulletin board; shower; radiator; glass; clock; flag
"""
# The 19 classes that are evaluated (arXiv:1604.01685), by their values in labelIds.
_CITYSCAPES = {
  'road': 7,
  'sidewalk': 8,
  'building': 11,
  'wall': 12,
  'fence': 13,
  'pole': 17,
  'traffic light': 19,
  'traffic sign': 20,
  'vegetation': 21,
  'terrain': 22,
  'sky': 23,
  'person': 24,
  'rider': 25,
  'car': 26,
  'truck': 27,
  'bus': 28,
  'train': 31,
  'motorcycle': 32,
  'bicycle': 33,
}
# Things and stuff of COCO-Stuff (arXiv:1612.03716) by their values in its maps, ids
# minus 1. Eleven of the 182 values are not used.
_COCO_STUFF = """
person; bicycle; car; motorcycle; airplane; bus; train; truck; boat; traffic light; fire
hydrant; -; stop sign; parking meter; bench; bird; cat; dog; horse; sheep; cow;
elephant; bear; zebra; giraffe; -; backpack; umbrella; -; -; handbag; tie; suitcase;
frisbee; skis; snowboard; sports ball; kite; baseball bat; baseball glove; skateboard;
surfboard; tennis racket; bottle; -; wine glass; cup; fork; knife; spoon; bowl; banana;
apple; sandwich; orange; broccoli; carrot; hot dog; pizza; donut; cake; chair; couch;
potted plant; bed; -; dining table; -; -; toilet; -; tv; laptop; mouse; remote;
keyboard; cell phone; microwave; oven; toaster; sink; refrigerator; -; book; clock;
vase; scissors; teddy bear; hair drier; toothbrush; -; banner; blanket; branch; bridge;
building-other; bush; cabinet; cage; cardboard; carpet; ceiling-other; ceiling-tile;
cloth; clothes; clouds; counter; cupboard; curtain; desk-stuff; dirt; door-stuff; fence;
floor-marble; floor-other; floor-stone; floor-tile; floor-wood; flower; fog; food-other;
fruit; furniture-other; grass; gravel; ground-other; hill; house; leaves; light; mat;
metal; mirror-stuff; moss; mountain; mud; napkin; net; paper; pavement; pillow;
plant-other; plastic; platform; playingfield; railing; railroad; river; road; rock;
roof; rug; salad; sand; sea; shelf; sky-other; skyscraper; snow; solid-other; stairs;
stone; straw; structural-other; table; tent; textile-other; towel; tree; vegetable;
wall-brick; wall-concrete; wall-other; wall-panel; wall-stone; wall-tile; wall-wood;
water-other; waterdrops; window-blind; window-other; wood
"""
# The background and 19 parts of people (arXiv:1703.05446).
_LIP = """
background; hat; hair; glove; sunglasses; upper clothes; dress; coat; socks; pants;
jumpsuits; scarf; skirt; face; left arm; right arm; left leg; right leg; left shoe;
right shoe
"""


def _split(text: str) -> list[str]:
  return [' '.join(name.split()) for name in text.split(';')]


def _coco_stuff() -> Classes:
  named = {i: name for i, name in enumerate(_split(_COCO_STUFF)) if name != '-'}
  return Classes(tuple(named.values()), tuple(named))


ADE20K = Classes(tuple(_split(_ADE20K)), tuple(range(1, 151)), (0,))
CITYSCAPES = Classes(
  tuple(_CITYSCAPES),
  tuple(_CITYSCAPES.values()),
  # Other classes, and the license plates of labelIds, -1 as 8 bits.
  tuple(sorted({*range(34), IGNORED} - {*_CITYSCAPES.values()})),
)
COCO_STUFF = _coco_stuff()
COCO_STUFF_54 = Classes(
  ('things', *(coco_classes.NAMES[i] for i in coco_classes.STUFF_IDS)),
  tuple(range(len(coco_classes.STUFF_IDS) + 1)),
)
LIP = Classes(tuple(_split(_LIP)), tuple(range(20)))
# Classes of a left and of a right part, which a mirrored image exchanges.
LIP_PAIRS = ((14, 15), (16, 17), (18, 19))
