"""Graph attention over superpixels of handwritten digits, as in arXiv:2002.05544.

    python tools/prepare_data.py digits
    python -m big_vision_like.train --config=configs/superpixel_gat/digits.py \
        --workdir=runs/superpixel_digits

Scans are enlarged to 28x28 and cut into 81 superpixels, once; features have about zero
mean and unit deviation. `sicgat` (the default) is the network of the paper with 2
heads, 55,100 parameters, and a softmax over edges; `gat` is a GAT of two layers and 4
heads. 8,000 steps of batch 32. Needs scikit-image: pip install '.[graphs]'.

Top-1 of `sicgat` on 450 test scans: 97.3 % after 4,600 steps (seed 0), 91.6 % after
1,260; the rest of the run was not waited for. Takes 5 minutes up to there on two busy
CPU cores. With the published features and rate (Adam with 1e-3), 33.8 % after 2,526
steps: the published recipe takes 170,000 on MNIST.
"""

import ml_collections as mlc
import optax

from big_vision_like import optim
from big_vision_like.data.input import pipeline
from big_vision_like.data.sources import memory, tfds
from big_vision_like.data.transforms import image, superpixels
from big_vision_like.evals import classification
from big_vision_like.models import superpixel_gat
from big_vision_like.spec import arguments, epochs, spec
from big_vision_like.tasks import classification as tasks

MODELS = {'sicgat': superpixel_gat.SuperpixelGAT, 'gat': superpixel_gat.GAT}
ARGUMENTS = tuple(MODELS)


def get_config(argument: str = ARGUMENTS[0]) -> mlc.ConfigDict:
  arg = arguments(argument, model=ARGUMENTS)
  c = mlc.ConfigDict(dict(seed=0, total_steps=8_000, log_every=200, keep_last=1))
  more = dict(normalizer='exact') if arg.model == 'sicgat' else {}
  c.train_data = spec(
    pipeline.TrainInput,
    source=graphs('train'),
    batch_size=32,
    seed=c.get_ref('seed'),
  )
  c.task = spec(
    tasks.Classification,
    inputs=('nodes', 'edges', 'weights', 'node_mask'),
    model=spec(MODELS[arg.model], num_classes=10, form='segments', **more),
    optimizer=spec(
      optim.adamw,
      rate=spec(
        optax.warmup_cosine_decay_schedule,
        init_value=0.0,
        peak_value=3e-3,
        warmup_steps=200,
        decay_steps=c.get_ref('total_steps'),
      ),
      clip_norm=1.0,
    ),
  )
  c.evals = dict(
    test=spec(
      classification.Accuracy,
      data=spec(pipeline.EvalInput, source=graphs('test'), batch_size=152),
      every=epochs(10),
    )
  )
  return c


def graphs(split: str) -> mlc.ConfigDict:
  """Returns scans as graphs, which are made once."""
  return spec(
    memory.Cached,
    source=spec(tfds.Tfds, name='digits', split=split),
    transforms=[
      spec(image.Decode, channels=1),
      spec(image.Resize, size=28, method='bilinear'),
      spec(superpixels.Superpixels, mean=(0.3, 0.5, 0.5), std=0.3),
    ],
  )
