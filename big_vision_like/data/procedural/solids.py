"""Shaded cubes, spheres and cylinders on a floor, as the TFDS data set `solids`.

The scenes imitate CLEVR (arXiv:1612.06890). They have its properties, its rules for the
placement of objects, much of its camera, and also the mask of each object. Rays are
cast in NumPy, so no renderer and no download is needed.

Coordinates are as in CLEVR: x and y on the floor, z up. Colours are linear until the
final conversion. Axes: 3 coordinates or colours, H W the image, or the finer grid that
its colours are averaged from, N pixels of one solid, P points.
"""

import dataclasses
import functools
from collections.abc import Mapping, Sequence
from typing import Any

import cv2
import numpy as np
import tensorflow_datasets as tfds

from big_vision_like.data.procedural import drawing

SPLITS = ('train', 'validation', 'test', 'crowded')

# In the order of TFDS's `clevr:3.1.0`; numbers as in CLEVR.
COLORS = {
  'gray': (87, 87, 87),
  'blue': (42, 75, 215),
  'brown': (129, 74, 25),
  'yellow': (255, 238, 51),
  'red': (173, 35, 35),
  'green': (29, 105, 20),
  'purple': (129, 38, 192),
  'cyan': (41, 208, 208),
}
MATERIALS = ('rubber', 'metal')
SHAPES = ('cube', 'sphere', 'cylinder')
RADII = {'small': 0.35, 'large': 0.7}

# Minimum distance of solids, minimum distance of their centres both from left to right
# and from front to back, and minimum number of visible pixels in a frame of CLEVR.
DISTANCE, MARGIN, PIXELS = 0.25, 0.4, 200
# Maximum number of places tried for a solid, and of scenes tried.
PLACES, SCENES = 50, 10_000

# The camera, which looks at the origin. FOCAL is in pixels of its frame of 240x320.
EYE_3 = np.array([7.48, -6.51, 5.34])
FRAME, FOCAL = (240, 320), 350.0
FORWARD_3 = -EYE_3 / np.linalg.norm(EYE_3)
RIGHT_3 = np.cross(FORWARD_3, [0.0, 0.0, 1.0])
RIGHT_3 /= np.linalg.norm(RIGHT_3)
DOWN_3 = np.cross(FORWARD_3, RIGHT_3)
BEHIND_3 = np.cross([0.0, 0.0, 1.0], RIGHT_3)
# Maximum random shift of camera and lamp along each axis.
EYE_JITTER, LAMP_JITTER = 0.5, 1.0

# A round lamp; each sample of a pixel uses another of 16 places on it.
LAMP_3 = 5.0 * RIGHT_3 - 3.5 * BEHIND_3 + np.array([0.0, 0.0, 8.0])
LAMP_RADIUS = 1.0
FILL_3 = -0.75 * RIGHT_3 - 0.4 * BEHIND_3 + np.array([0.0, 0.0, 0.5])
# Intensity of the lamp, of the fill light, and of light from all sides, and the
# reflectance of the floor.
LAMP, FILL, SKY, FLOOR = 0.85, 0.25, 0.4, 0.3
# Colours are means over SAMPLES**2 rays per pixel.
SAMPLES = 2
# Apparent sharpness of edges; normals turn near an edge as if it were slightly round.
EDGE = 14

Pair = tuple[np.ndarray, np.ndarray]


@dataclasses.dataclass(frozen=True)
class View:
  """An image of `height` x `width` pixels of a part of the camera's 240x320 frame.

  `window` is the top, left, height and width of the part.
  """

  height: int
  width: int
  window: tuple[int, int, int, int] = (0, 0, *FRAME)

  @property
  def min_pixels(self) -> float:
    """The minimum visible pixels of each solid, equivalent to PIXELS of the frame."""
    _, _, height, width = self.window
    return PIXELS * self.height * self.width / (height * width)

  def project(self, points_P3: np.ndarray, eye_3: np.ndarray) -> np.ndarray:
    """Projects points to the image; returns x, y in pixels and the depth, (P,3)."""
    top, left, height, width = self.window
    rays_P3 = points_P3 - eye_3
    depth_P = rays_P3 @ FORWARD_3
    x_P = FRAME[1] / 2 - left + FOCAL * (rays_P3 @ RIGHT_3) / depth_P
    y_P = FRAME[0] / 2 - top + FOCAL * (rays_P3 @ DOWN_3) / depth_P
    return np.stack(
      [x_P * self.width / width, y_P * self.height / height, depth_P], axis=-1
    )

  def around(
    self, points_P3: np.ndarray, eye_3: np.ndarray, samples: int
  ) -> tuple[slice, slice]:
    """Returns the rows and columns of `rays` that contain all these points."""
    places_P2 = self.project(points_P3, eye_3)[:, :2] * samples
    first = np.maximum(np.floor(places_P2.min(axis=0)).astype(int), 0)
    last = np.maximum(np.ceil(places_P2.max(axis=0)).astype(int) + 1, 0)
    return slice(first[1], last[1]), slice(first[0], last[0])


FULL = View(128, 128)
# The part of CLEVR's frame that Slot Attention (arXiv:2006.15055) uses for object
# discovery.
MIDDLE = (29, 64, 192, 192)


@functools.cache
def rays(view: View, samples: int) -> np.ndarray:
  """Returns directions (3,H,W) of `samples` x `samples` rays per pixel, of depth 1."""
  top, left, height, width = view.window
  y_H1 = _middles(view.height * samples)[:, None] * height + top - FRAME[0] / 2
  x_1W = _middles(view.width * samples)[None, :] * width + left - FRAME[1] / 2
  rays_3HW = [
    forward + x_1W / FOCAL * right + y_H1 / FOCAL * down
    for forward, right, down in zip(FORWARD_3, RIGHT_3, DOWN_3, strict=True)
  ]
  return np.array(rays_3HW, np.float32)


def _middles(count: int) -> np.ndarray:
  return (np.arange(count) + 0.5) / count


@dataclasses.dataclass(frozen=True)
class Solid:
  """A solid that stands on the floor; `rotation` is about the vertical, in degrees."""

  shape: str
  size: str
  material: str
  color: str
  x: float
  y: float
  rotation: float

  @property
  def radius(self) -> float:
    """Half the height, and half a cube's side."""
    return RADII[self.size]

  @property
  def center_3(self) -> np.ndarray:
    """The centre, at the height of the radius."""
    return np.array([self.x, self.y, self.radius])

  @property
  def corners_83(self) -> np.ndarray:
    """The corners of an upright box that holds the solid at any rotation."""
    signs_83 = np.stack(np.meshgrid(*[[-1, 1]] * 3), axis=-1).reshape(8, 3)
    reach = reach_of(self.shape, self.size)
    return self.center_3 + signs_83 * np.array([reach, reach, self.radius])

  @property
  def surroundings_43(self) -> np.ndarray:
    """The corners of the floor area that the solid darkens, four times its width."""
    reach = 4 * self.radius
    corners = [[x, y, 0] for x in (-reach, reach) for y in (-reach, reach)]
    return np.array([self.x, self.y, 0]) + corners

  def local(self, vectors: np.ndarray) -> np.ndarray:
    """Rotates vectors (3,...) from the axes of the scene to the axes of the solid."""
    return self._turned(vectors, np.sin(np.deg2rad(self.rotation)))

  def world(self, vectors: np.ndarray) -> np.ndarray:
    """Rotates vectors (3,...) from the axes of the solid to the axes of the scene."""
    return self._turned(vectors, -np.sin(np.deg2rad(self.rotation)))

  def _turned(self, vectors: np.ndarray, sine: float) -> np.ndarray:
    if self.shape != 'cube':
      return vectors  # other shapes are symmetric about the vertical
    x, y, z = vectors
    sine = np.float32(sine)
    cosine = np.float32(np.cos(np.deg2rad(self.rotation)))
    return np.stack([cosine * x + sine * y, cosine * y - sine * x, z])


def reach_of(shape: str, size: str) -> float:
  """Returns the largest horizontal distance of a solid's points from its centre."""
  return RADII[size] * (np.sqrt(2) if shape == 'cube' else 1.0)


def crossing(solid: Solid, start: np.ndarray, ray: np.ndarray) -> Pair:
  """Returns where rays (3,...) enter and leave a solid, in multiples of the rays.

  Rays that miss the solid enter after they leave.
  """
  center_3 = solid.center_3.astype(np.float32)
  start = start - center_3.reshape(3, *[1] * (start.ndim - 1))
  start, ray = solid.local(start), solid.local(ray)
  if solid.shape == 'sphere':
    return _in_ball(start, ray, solid.radius)
  if solid.shape == 'cube':
    within = [_between(start[i], ray[i], solid.radius) for i in range(3)]
  else:
    within = [
      _in_ball(start[:2], ray[:2], solid.radius),
      _between(start[2], ray[2], solid.radius),
    ]
  enter, leave = zip(*within, strict=True)
  return functools.reduce(np.maximum, enter), functools.reduce(np.minimum, leave)


def _in_ball(start: np.ndarray, ray: np.ndarray, radius: float) -> Pair:
  """Returns `crossing` with a ball at the origin, or with two axes a cylinder."""
  square = sum(r * r for r in ray)
  half = sum(r * s for r, s in zip(ray, start, strict=True))
  rest = half * half - square * (sum(s * s for s in start) - np.float32(radius**2))
  root = np.sqrt(np.maximum(rest, 0))
  enter = np.where(rest > 0, (-half - root) / square, np.float32(np.inf))
  return enter, (root - half) / square


def _between(start: np.ndarray, ray: np.ndarray, radius: float) -> Pair:
  """Returns `crossing` with the space between two planes, along one axis."""
  inverse = 1 / np.where(ray == 0, np.float32(1e-9), ray)
  middle, half = -start * inverse, np.abs(np.float32(radius) * inverse)
  return middle - half, middle + half


def cast(view: View, eye_3: np.ndarray, solids: Sequence[Solid], samples: int) -> Pair:
  """Finds the first solid that each ray of a camera meets.

  Returns the number of the solid, from 1 (0 for the floor), as (H,W) uint8, and the
  depth, (H,W).
  """
  rays_3HW = rays(view, samples)
  depth_HW = np.float32(-eye_3[2]) / rays_3HW[2]
  ids_HW = np.zeros(depth_HW.shape, np.uint8)
  start_311 = eye_3.astype(np.float32)[:, None, None]
  for i, solid in enumerate(solids, start=1):
    part = view.around(solid.corners_83, eye_3, samples)
    enter, leave = crossing(solid, start_311, rays_3HW[:, *part])
    first = (enter < leave) & (enter < depth_HW[part])
    ids_HW[part][first] = i
    depth_HW[part][first] = enter[first]
  return ids_HW, depth_HW


def render(
  view: View, eye_3: np.ndarray, lamp_3: np.ndarray, solids: Sequence[Solid]
) -> np.ndarray:
  """Renders the image, (H,W,3) uint8."""
  ids_HW, depth_HW = cast(view, eye_3, solids, SAMPLES)
  rays_3HW = rays(view, SAMPLES)
  points_3HW = eye_3.astype(np.float32)[:, None, None] + depth_HW * rays_3HW
  lights_3HW = _lights(lamp_3, ids_HW.shape)
  floor_HW = _floor(view, eye_3, lamp_3, solids, lights_3HW)
  image_3HW = np.repeat(floor_HW[None], 3, axis=0)
  for i, solid in enumerate(solids, start=1):
    part = view.around(solid.corners_83, eye_3, SAMPLES)
    seen = ids_HW[part] == i
    points_3N, rays_3N, lights_3N = (
      array[:, *part][:, seen] for array in (points_3HW, rays_3HW, lights_3HW)
    )
    others = [other for other in solids if other is not solid]
    image_3HW[:, *part][:, seen] = _shaded(
      solid, points_3N, rays_3N, lamp_3, _lit(others, points_3N, lights_3N)
    )
  return _averaged(np.minimum(image_3HW, 1, out=image_3HW))


def _averaged(rays_3HW: np.ndarray) -> np.ndarray:
  """Averages linear colours of the finer grid to pixels, uint8 with three channels."""
  places = np.ndindex(SAMPLES, SAMPLES)
  parts = [rays_3HW[:, i::SAMPLES, j::SAMPLES] for i, j in places]
  image = (sum(parts) / len(parts)).transpose(1, 2, 0)
  return np.rint(255 * np.sqrt(image)).astype(np.uint8)  # about a screen's gamma


@functools.cache
def _disc() -> np.ndarray:
  """Returns evenly spread places on a disc, (2,4,4), far apart for neighbours."""
  order = np.array([[0, 8, 2, 10], [12, 4, 14, 6], [3, 11, 1, 9], [15, 7, 13, 5]])
  radius, angle = np.sqrt((order + 0.5) / order.size), order * np.pi * (3 - np.sqrt(5))
  return radius * np.array([np.cos(angle), np.sin(angle)])


def _lights(lamp_3: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
  """Returns each ray's direction to its place on the distant lamp, (3,H,W)."""
  across_3 = np.cross(lamp_3, [0.0, 0.0, 1.0])
  across_3 /= np.linalg.norm(across_3)
  along_3 = np.cross(across_3, _unit(lamp_3))
  x_hw, y_hw = LAMP_RADIUS * _disc()
  places_3hw = (
    lamp_3[:, None, None]
    + across_3[:, None, None] * x_hw
    + along_3[:, None, None] * y_hw
  )
  repeats = [-(-size // of) for size, of in zip(shape, x_hw.shape, strict=True)]
  lights_3HW = np.tile(_unit(places_3hw).astype(np.float32), (1, *repeats))
  return lights_3HW[:, : shape[0], : shape[1]]


def _unit(vectors: np.ndarray) -> np.ndarray:
  return vectors / np.sqrt((vectors * vectors).sum(axis=0))


def _dot(a: np.ndarray, b_3: np.ndarray) -> np.ndarray:
  return sum(np.float32(b) * x for x, b in zip(a, b_3, strict=True))


def _lit(
  solids: Sequence[Solid], points_3N: np.ndarray, lights_3N: np.ndarray
) -> np.ndarray:
  """Returns whether no solid is between points and the lamp, bool (N,)."""
  lit_N = np.ones(points_3N.shape[1], bool)
  for solid in solids:
    enter_N, leave_N = crossing(solid, points_3N, lights_3N)
    lit_N &= (enter_N > leave_N) | (leave_N < 0)
  return lit_N


def _floor(
  view: View,
  eye_3: np.ndarray,
  lamp_3: np.ndarray,
  solids: Sequence[Solid],
  lights_3HW: np.ndarray,
) -> np.ndarray:
  """Returns the linear grey of the floor, (H,W), including parts hidden by solids."""
  rays_3HW = rays(view, SAMPLES)
  depth_HW = np.float32(-eye_3[2]) / rays_3HW[2]
  x_HW, y_HW = (depth_HW * rays_3HW[i] + np.float32(eye_3[i]) for i in range(2))
  lit_HW, open_HW = np.ones((2, *x_HW.shape), np.float32)
  for solid in solids:
    part = view.around(_shadow(solid, lamp_3), eye_3, SAMPLES)
    points_3hw = np.stack([x_HW[part], y_HW[part], np.zeros_like(x_HW[part])])
    enter_hw, leave_hw = crossing(solid, points_3hw, lights_3HW[:, *part])
    lit_HW[part][enter_hw < leave_hw] = 0
    part = view.around(solid.surroundings_43, eye_3, SAMPLES)
    x_hw, y_hw = x_HW[part] - solid.x, y_HW[part] - solid.y
    square_hw = (x_hw * x_hw + y_hw * y_hw) / solid.radius**2 + 1
    # A ball on the floor covers radius**3 / distance**3 of the sky.
    covered_hw = 1 / (square_hw * np.sqrt(square_hw)) - 1 / 64
    open_HW[part] *= 1 - np.maximum(covered_hw, 0)
  # Any 4x4 rays use all places on the lamp.
  lit_HW = cv2.blur(lit_HW, _disc().shape[1:])
  light_HW = SKY * open_HW + LAMP * np.float32(_unit(lamp_3)[2]) * lit_HW
  return FLOOR * light_HW / (1 + (x_HW * x_HW + y_HW * y_HW) / 500)


def _shadow(solid: Solid, lamp_3: np.ndarray) -> np.ndarray:
  """Returns points on the floor around a solid's base and shadow, (P,3)."""
  lights_31P = _lights(lamp_3, _disc().shape[1:]).reshape(3, 1, -1)
  corners_381 = solid.corners_83.T[:, :, None]
  shadow_38P = corners_381 - lights_31P * corners_381[2] / lights_31P[2]
  return shadow_38P.reshape(3, -1).T


def _shaded(
  solid: Solid,
  points_3N: np.ndarray,
  rays_3N: np.ndarray,
  lamp_3: np.ndarray,
  lit_N: np.ndarray,
) -> np.ndarray:
  """Returns the linear colours of points on a solid, (3,N)."""
  color_31 = np.array(COLORS[solid.color], np.float32)[:, None] / 255
  normal_3N = _normal(solid, points_3N)
  ray_3N = _unit(rays_3N)
  mirror_3N = ray_3N - 2 * sum(ray_3N * normal_3N) * normal_3N
  lamp_3, fill_3 = _unit(lamp_3), _unit(FILL_3)
  # The floor, which is grey and shaded near the solid, reflects light from below.
  sky_N = SKY * (0.65 + 0.35 * normal_3N[2])
  diffuse_N = LAMP * lit_N * np.maximum(_dot(normal_3N, lamp_3), 0)
  diffuse_N += FILL * np.maximum(_dot(normal_3N, fill_3), 0) + sky_N
  shine_N = lit_N * np.maximum(_dot(mirror_3N, lamp_3), 0)
  if solid.material == 'rubber':
    return color_31 * diffuse_N + 0.08 * shine_N**6
  fill_N = np.maximum(_dot(mirror_3N, fill_3), 0)
  up_N = mirror_3N[2]
  # The reflected environment: bright above, dark at the horizon, then the floor.
  around_N = np.where(up_N > 0, 0.1 + 0.8 * up_N, 0.1 - 0.5 * up_N)
  reflected_N = around_N + 0.6 * fill_N**20 + 0.4 * shine_N**8
  return color_31 * (0.35 * diffuse_N + 1.3 * reflected_N) + 1.2 * shine_N**50


def _normal(solid: Solid, points_3N: np.ndarray) -> np.ndarray:
  """Returns outward unit normals at points on a solid, (3,N); rounds edges slightly."""
  center_3 = solid.center_3.astype(np.float32)
  at_3N = solid.local(points_3N - center_3[:, None]) / np.float32(solid.radius)
  if solid.shape == 'cube':
    at_3N = at_3N * np.abs(at_3N) ** EDGE
  elif solid.shape == 'cylinder':
    wide_N = np.sqrt(at_3N[0] ** 2 + at_3N[1] ** 2)
    at_3N = np.stack([*at_3N[:2] * wide_N**EDGE, at_3N[2] * np.abs(at_3N[2]) ** EDGE])
  return solid.world(_unit(at_3N))


def draw(
  seed: int,
  split: str,
  index: int,
  view: View = FULL,
  counts: tuple[int, int] = (3, 10),
) -> dict[str, Any]:
  """Draws example `index` of a split: `image`, `segmentation`, `objects`, `id`.

  `counts` has the minimum and maximum number of solids. The image is (H,W,3) uint8. The
  segmentation, (H,W,1) uint8, is the number from 1 of the solid at the centre of each
  pixel, or 0. Objects have the fields of TFDS's `clevr:3.1.0`; `pixel_coords` are the
  rounded x and y of the solid's centre in this image, and its depth.
  """
  rng = drawing.generator(seed, split, index, SPLITS)
  count = int(rng.integers(counts[0], counts[1] + 1))
  eye_3 = EYE_3 + rng.uniform(-EYE_JITTER, EYE_JITTER, 3)
  lamp_3 = LAMP_3 + rng.uniform(-LAMP_JITTER, LAMP_JITTER, 3)
  for _ in range(SCENES):
    solids = place(count, rng)
    ids_HW, _ = cast(view, eye_3, solids, samples=1)
    pixels = np.bincount(ids_HW.ravel(), minlength=count + 1)
    if pixels[1:].min() >= view.min_pixels:
      break
  else:
    raise ValueError(f'counts={counts}: some of {count} solids are always hidden')
  return {
    'image': render(view, eye_3, lamp_3, solids),
    'segmentation': ids_HW[:, :, None],
    'objects': [_described(solid, view, eye_3) for solid in solids],
    'id': index,
  }


def place(count: int, rng: np.random.Generator) -> list[Solid]:
  """Places random solids at valid positions; restarts if one of them does not fit."""
  solids: list[Solid] = []
  for _ in range(SCENES * count):
    if len(solids) == count:
      return solids
    shape, size, material, color = (
      names[int(rng.integers(len(names)))]
      for names in (SHAPES, tuple(RADII), MATERIALS, tuple(COLORS))
    )
    places_P2 = rng.uniform(-3, 3, (PLACES, 2))
    for other in solids:
      places_P2 = places_P2[_apart(places_P2, shape, size, other)]
    if not len(places_P2):
      solids = []
      continue
    x, y = places_P2[0].tolist()
    rotation = rng.uniform(0, 360)
    solids.append(Solid(shape, size, material, color, x, y, rotation))
  raise ValueError(f'there is no room for {count} solids')


def _apart(places_P2: np.ndarray, shape: str, size: str, other: Solid) -> np.ndarray:
  """Returns whether places are far enough from another solid, bool (P,)."""
  step_P2 = places_P2 - other.center_3[:2]
  # As in CLEVR, except that edges of cubes may not intersect.
  least = max(
    RADII[size] + other.radius + DISTANCE,
    reach_of(shape, size) + reach_of(other.shape, other.size),
  )
  apart_P = np.hypot(*step_P2.T) >= least
  for axis_3 in (RIGHT_3, BEHIND_3):
    apart_P &= np.abs(step_P2 @ axis_3[:2]) >= MARGIN
  return apart_P


def _described(solid: Solid, view: View, eye_3: np.ndarray) -> dict[str, Any]:
  x, y, depth = view.project(solid.center_3[None], eye_3)[0]
  return {
    '3d_coords': solid.center_3.astype(np.float32),
    'color': solid.color,
    'material': solid.material,
    'shape': solid.shape,
    'size': solid.size,
    'rotation': np.float32(solid.rotation),
    'pixel_coords': np.array([np.rint(x), np.rint(y), depth], np.float32),
  }


@dataclasses.dataclass
class SolidsConfig(tfds.core.BuilderConfig):
  """The view, and the number of examples and the most solids of each split."""

  view: View = FULL
  splits: Mapping[str, tuple[int, int]] = dataclasses.field(
    default_factory=lambda: {'train': (70_000, 10), 'validation': (15_000, 10)}
  )
  fewest: int = 3
  seed: int = 0


def _discovery(name: str, side: int, examples: int) -> SolidsConfig:
  """Returns a config with up to six solids; its split `crowded` has up to ten."""
  return SolidsConfig(
    name=name,
    view=View(side, side, MIDDLE),
    splits={
      'train': (examples, 6),
      'validation': (320, 6),
      'test': (320, 6),
      'crowded': (320, 10),
    },
    description=f'The middle of the frame, up to six solids, {side}x{side} pixels.',
  )


class Solids(drawing.Pictures):
  """Scenes of 3 to 10 solids: as in CLEVR, 70,000 for training, 15,000 for validation.

  Images have 128x128 pixels. The whole 4:3 frame is squeezed to this size, as in set
  prediction on CLEVR (arXiv:2006.15055). `solids/64`, for experiments, has 20,000 and
  1,000 scenes with 64x64 pixels.

  `solids/discovery` is for object discovery without labels. It shows the central square
  of the frame, and has 35,000 scenes of 3 to 6 solids, about as many as CLEVR, 320 each
  in `validation` and `test`, and 320 scenes of 3 to 10 solids in `crowded`.
  `solids/discovery_32` has 20,000 training scenes, with 32x32 pixels.
  """

  BUILDER_CONFIGS = [
    SolidsConfig(name='128', description='The whole frame, 128x128 pixels.'),
    SolidsConfig(
      name='64',
      view=View(64, 64),
      splits={'train': (20_000, 10), 'validation': (1_000, 10)},
      description='The whole frame, 64x64 pixels.',
    ),
    _discovery('discovery', 128, 35_000),
    _discovery('discovery_32', 32, 20_000),
  ]
  DEFAULT_BUILDER_CONFIG_NAME = '128'

  def _info(self) -> tfds.core.DatasetInfo:
    view = self.builder_config.view
    objects = {
      'color': tfds.features.ClassLabel(names=list(COLORS)),
      'material': tfds.features.ClassLabel(names=MATERIALS),
      'shape': tfds.features.ClassLabel(names=SHAPES),
      'size': tfds.features.ClassLabel(names=list(RADII)),
      'rotation': np.float32,
      '3d_coords': tfds.features.Tensor(shape=(3,), dtype=np.float32),
      'pixel_coords': tfds.features.Tensor(shape=(3,), dtype=np.float32),
    }
    return self.described(
      'Cubes, spheres and cylinders, with a segmentation of their pixels.',
      {
        'image': drawing.picture(view.height, view.width, 3),
        'segmentation': drawing.picture(view.height, view.width, 1),
        'objects': tfds.features.Sequence(objects),
      },
    )

  def _split_generators(self, dl_manager: Any) -> dict[str, drawing.Counted]:
    config = self.builder_config
    counts = {split: count for split, (count, _) in config.splits.items()}
    return drawing.by_split(_encoded, config, counts)


def _encoded(config: SolidsConfig, split: str, index: int) -> dict[str, Any]:
  """Draws example `index`, with its images as PNG."""
  counts = (config.fewest, config.splits[split][1])
  return drawing.encoded(draw(config.seed, split, index, config.view, counts))
