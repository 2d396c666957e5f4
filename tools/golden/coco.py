"""Golden files of COCO's protocols, and of the segments that DETR predicts."""

import numpy as np

from big_vision_like.evals import detection, panoptic
from tools.golden.common import EXACT, FLOAT, Check, Fields, Results, select


def average_precision(description: Fields, arrays: Fields) -> Results:
  """Computes the COCO AP of boxes and of masks."""
  from pycocotools import mask

  size = description['size']
  image_N, category_N, crowd_N = arrays['input/gt_image_cat_crowd'].T
  true_N4 = arrays['input/gt_bbox_xywh_x100'] / 100.0
  found_image_N, found_category_N = arrays['input/dt_image_cat'].T
  found_N4 = arrays['input/dt_bbox_xywh_x100'] / 100.0

  def ellipses(boxes_N4: np.ndarray) -> list[dict]:
    y_1HW, x_1HW = (axis[None] + 0.5 for axis in np.indices((size, size)))
    left_N11, top_N11, width_N11, height_N11 = boxes_N4.T[:, :, None, None]
    x_NHW = (x_1HW - left_N11 - width_N11 / 2) / (width_N11 / 2)
    y_NHW = (y_1HW - top_N11 - height_N11 / 2) / (height_N11 / 2)
    inside_NHW = (x_NHW**2 + y_NHW**2 <= 1).astype(np.uint8)
    return mask.encode(np.asfortranarray(inside_NHW.transpose(1, 2, 0)))

  annotations = detection.entries(
    image_id=image_N,
    category_id=category_N,
    iscrowd=crowd_N,
    bbox=true_N4,
    area=arrays['input/gt_area'],
  )
  found = detection.entries(
    image_id=found_image_N,
    category_id=found_category_N,
    bbox=found_N4,
    score=arrays['input/dt_score_x100'] / 100.0,
  )
  ids = range(1, description['images'] + 1)
  truth = {
    'images': [{'id': i, 'height': size, 'width': size} for i in ids],
    'categories': [{'id': i} for i in description['categories']],
    'annotations': with_masks(annotations, ellipses(true_N4)),
  }
  found = with_masks(found, ellipses(found_N4))
  results = {}
  for kind in ('bbox', 'segm'):
    measured = detection.evaluated(truth, found, ids, kind)
    # Axes: thresholds of IoU, recalls, categories, ranges of area, most detections.
    precision_TRCAM = measured.eval['precision']
    of_all_TRC = precision_TRCAM[:, :, :, 0, -1]
    results |= {
      f'output/{kind}_stats': (measured.stats, FLOAT),
      f'output/{kind}_ap_per_class_all': (of_all_TRC.mean(axis=(0, 1)), FLOAT),
      f'output/{kind}_precision_iou50_maxdet100': (of_all_TRC[0], FLOAT),
      f'output/{kind}_recall_all_maxdet100': (
        measured.eval['recall'][:, :, 0, -1],
        FLOAT,
      ),
    }
  return results


def with_masks(entries: list[dict], masks: list[dict]) -> list[dict]:
  pairs = zip(entries, masks, strict=True)
  return [entry | {'segmentation': mask} for entry, mask in pairs]


def panoptic_quality(description: Fields, arrays: Fields) -> Results:
  """Computes panoptic quality of all images: by class, of things, and of stuff."""
  things = {
    int(label): bool(thing) for label, thing in description['categories'].items()
  }
  # Our evaluation requires things to have lower labels than stuff.
  labels = sorted(things, key=lambda label: (not things[label], label))
  number_of = np.zeros(max(labels) + 1, int)
  number_of[labels] = np.arange(len(labels))
  counts_C4 = np.zeros((len(labels), 4))
  for index in range(description['images']):
    true, found = (select(arrays, f'input/{side}{index}_') for side in ('gt', 'pred'))
    segments_S3 = true['segments_id_cat_crowd'].copy()
    segments_P2 = found['segments_id_cat'].copy()
    for segments in (segments_S3, segments_P2):
      segments[:, 1] = number_of[segments[:, 1]]
    counts_C4 += panoptic.counts(
      true['id_map'], segments_S3, found['id_map'], segments_P2, len(labels)
    )
  means = panoptic.quality(counts_C4, sum(things.values()))
  by_label = np.argsort(labels)
  labels_C1 = np.sort(labels)[:, None]
  quality_C3 = panoptic.class_quality(counts_C4)[by_label]
  results = {
    'output/per_class_id_pq_sq_rq': (np.hstack([labels_C1, quality_C3]), FLOAT),
    'output/per_class_id_tp_fp_fn_iou': (
      np.hstack([labels_C1, counts_C4[by_label]]),
      FLOAT,
    ),
  }
  for name, suffix in ('all', ''), ('things', 'th'), ('stuff', 'st'):
    values = np.array([means[f'{q}{suffix}'] for q in ('PQ', 'SQ', 'RQ')])
    results[f'output/{name}_pq_sq_rq'] = (values, FLOAT)
  return results


def detr_segments(description: Fields, arrays: Fields) -> Results:
  """Computes the segments of each image."""
  results = {}
  num_things = description['last_thing'] + 1
  for index, (size, shown_size) in enumerate(
    zip(description['processed_sizes'], description['target_sizes'], strict=True)
  ):
    ids_HW, segments_S2 = panoptic.segments_of(
      arrays['input/pred_logits'][index],
      arrays['input/pred_masks'][index],
      tuple(size),
      tuple(shown_size),
      num_things,
      threshold=description['threshold'],
    )
    # The reference counts segments from 0.
    ids_S, labels_S = segments_S2.T
    areas_S = np.bincount(ids_HW.ravel(), minlength=len(ids_S) + 1)[1:]
    columns = [ids_S - 1, labels_S < num_things, labels_S, areas_S]
    results |= {
      f'output/{index}_id_map': (np.maximum(ids_HW - 1, 0), EXACT),
      f'output/{index}_segments_id_isthing_cat_area': (
        np.stack(columns, axis=1),
        EXACT,
      ),
    }
  return results


CHECKS = (
  Check(
    average_precision, 'pycocotools COCOeval', fields=('n_dt', 'n_gt', 'mask_rule')
  ),
  Check(
    panoptic_quality, 'cocodataset panopticapi', fields=('categories', 'hw', 'images')
  ),
  Check(
    detr_segments,
    'detr PostProcessPanoptic',
    fields=('processed_sizes', 'target_sizes', 'last_thing'),
  ),
)
