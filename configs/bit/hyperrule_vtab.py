"""BiTs on VTAB-1k (arXiv:1910.04867), 19 tasks, with the rule of arXiv:1912.11370.

    python -m big_vision_like.train --config=configs/bit/hyperrule_vtab.py:dtd,R50x1 \
        --workdir=runs/hyperrule_vtab_dtd_R50x1

The argument is TASK,MODEL[,l][,tune]. TASK is a key of benchmarks.VTAB, as in
configs/vit/vtab.py. By default, weights are BiT-M's, stored as
`weights/BiT-M-R50x1.npz` and so on; with `l`, they come from a run of jft.py in
`runs/bit_l_R152x4`.

This is the rule of hyperrule.py for 1,000 examples: 500 steps of batch 512, learning
rate 0.003, no mixup. Images of fewer than 96 x 96 pixels are resized to 160 and cropped
to 128, others to 448 and 384 (R152x4: 512 and 480). Accuracy is measured on the whole
test set. `tune` trains on 800 examples and evaluates on the other 200. Random crops and
flips are left out where they may change the label. tools/sweep.py prints the means by
group, as described in configs/vit/vtab.py.

Expected mean of R152x4: 70.64 % in the paper (table 2), 73.51 % rerun by the authors.
`python tools/paper_tables.py 1912.11370 --table=VTAB` prints the means by group. The
training time is unknown; `python -m big_vision_like.plan` estimates it.
"""

import ml_collections as mlc

from big_vision_like import optim
from big_vision_like.data import benchmarks
from big_vision_like.data.transforms import image
from big_vision_like.evals import classification
from big_vision_like.models import bit
from big_vision_like.run import init_from
from big_vision_like.spec import arguments, spec
from big_vision_like.tasks import classification as tasks

ARGUMENTS = ('caltech101,R50x1', 'dsprites_loc,R50x1', 'svhn,R50x3,l,tune')


def get_config(argument: str = ARGUMENTS[0]) -> mlc.ConfigDict:
  arg = arguments(argument, task=benchmarks.VTAB, model=str, l=False, tune=False)
  task, model = benchmarks.VTAB[arg.task], arg.model
  part, evaluated = ('fit', 'val') if arg.tune else ('train', 'test')
  examples = task.parts[part][1]
  large = (512, 480) if model == 'R152x4' else (448, 384)
  resized, cropped = image.bit_sizes(*task.size, large)
  *_, total_steps = optim.hyperrule_steps(examples)
  c = mlc.ConfigDict(dict(seed=0, total_steps=total_steps, log_every=50))
  if arg.l:
    weights = spec(init_from.from_run, workdir=f'runs/bit_l_{model}')
  else:
    weights = spec(init_from.from_file, path=f'weights/BiT-M-{model}.npz')
  c.init_from = spec(init_from.InitFrom, weights=weights)
  squashed = spec(image.Resize, size=cropped)
  if task.crop:
    seen = [spec(image.Resize, size=resized), spec(image.RandomCrop, size=cropped)]
  else:
    seen = [squashed]
  c.train_data = task.train_input(
    part,
    [*seen, spec(image.Flip)] if task.flip else seen,
    batch_size=512,
    seed=c.get_ref('seed'),
  )
  c.task = spec(
    tasks.Classification,
    model=spec(
      bit.BiT, num_classes=task.num_classes, **bit.variant(model), dtype='bfloat16'
    ),
    optimizer=spec(
      optim.momentum,
      rate=spec(optim.hyperrule_rate, examples=examples, peak_value=0.003),
      decay=0.9,
    ),
  )
  data = task.eval_input(evaluated, [squashed], batch_size=512)
  c.evals = {evaluated: spec(classification.Accuracy, data=data)}
  return c
