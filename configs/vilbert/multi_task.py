"""One ViLBERT for several tasks, as in 12-in-1, arXiv:1912.02315.

    python -m big_vision_like.train --config=configs/vilbert/multi_task.py:all \
        --workdir=runs/vilbert_multi_task

The argument names the tasks, such as `vqa+refcoco`. `all` are those of the paper's
twelve whose data this package reads: VQA v2, GQA, retrieval on Flickr30k, RefCOCO+,
NLVR2 and SNLI-VE. Lengths of texts, batches, heads and losses are those of the
published vilbert_tasks.yml; the published model also has a score for each token, which
no task uses. All parameters but the heads are shared; a token names the task. Each step
trains one task, all equally often: the paper's dynamic stop-and-go, which pauses a task
once it has converged, is not implemented. The learning rate is 4e-5 after a linear
warm-up of 10 %, then linear to 0, over 20 epochs of NLVR2's training data for each
task. The regions are stored as for the configs of single tasks, and the weights are
those of a run of `configs/vilbert/cc.py`, which lack only the token of the task.

The paper's numbers are for all twelve tasks, so there is no number to expect. Not
trained here.
"""

import ml_collections as mlc

from big_vision_like import optim
from big_vision_like.data import language_vision
from big_vision_like.data.input import alternating
from big_vision_like.errors import check_one_of
from big_vision_like.evals import answering as evals
from big_vision_like.evals import classification, retrieval
from big_vision_like.layers import pairs
from big_vision_like.models import vilbert
from big_vision_like.run import init_from
from big_vision_like.spec import epochs, spec
from big_vision_like.tasks import answering, multi_task

# The published numbers of tasks, and the number of numbers.
NUMBERS = dict(vqa=1, flickr30k=8, refcoco=10, nlvr2=12, entailment=13, gqa=15)
NUM_TASKS = 20
EPOCHS = 20
ARGUMENTS = ('flickr30k+nlvr2',)
# Batches, heads and losses of tasks.
TASKS = dict(
  vqa=(128, spec(pairs.Answers, num_outputs=language_vision.VQA_ANSWERS), 'sigmoid'),
  gqa=(128, spec(pairs.Answers, num_outputs=language_vision.GQA_ANSWERS), 'sigmoid'),
  flickr30k=(128, spec(pairs.Classes, num_outputs=1), 'softmax'),
  refcoco=(256, spec(pairs.RegionScores), 'sigmoid'),
  nlvr2=(64, spec(pairs.Answers, num_outputs=2, images=2), 'binary'),
  entailment=(256, spec(pairs.Classes, num_outputs=3), 'binary'),
)


def get_config(argument: str = ARGUMENTS[0]) -> mlc.ConfigDict:
  tasks = chosen(argument)
  texts = dict(
    vqa=language_vision.vqa_v2(length=23),
    gqa=language_vision.gqa(),
    refcoco=language_vision.refcoco_plus(),
    nlvr2=language_vision.nlvr2(),
    entailment=language_vision.snli_ve(),
  )
  texts = {
    name: data.numbered(NUMBERS[name]) for name, data in texts.items() if name in tasks
  }
  c = mlc.ConfigDict(dict(seed=0, log_every=50, checkpoint_every=2000))
  c.total_steps = epochs(EPOCHS * len(tasks))
  c.train_data = spec(
    alternating.Alternating,
    inputs={
      name: (
        language_vision.retrieval_train(batch, NUMBERS[name], seed=number, workers=4)
        if name == 'flickr30k'
        else texts[name].train_input(batch, seed=number, workers=4)
      )
      for number, (name, (batch, *_)) in enumerate(tasks.items())
    },
    shares=dict.fromkeys(tasks, 1 / len(tasks)),
    epoch_of='nlvr2' if 'nlvr2' in tasks else next(iter(tasks)),
    seed=c.get_ref('seed'),
  )
  c.init_from = spec(
    init_from.InitFrom,
    weights=spec(init_from.from_run, workdir='runs/vilbert_cc'),
    leave_out=('.*heads_.*',),
    rename=((r'(.*)', r'shared/\1'),),
    allow_missing=('.*heads_.*', '.*/task/.*'),
  )
  c.task = spec(
    multi_task.MultiTask,
    tasks={
      name: spec(
        answering.Answering,
        model=spec(
          vilbert.ViLBERT,
          **vilbert.variant('6'),
          num_tasks=NUM_TASKS,
          heads={name: head},
        ),
        inputs=(*answering.TEXT, *answering.IMAGE, 'task'),
        head=name,
        loss_type=loss_type,
        optimizer=None,
      )
      for name, (_, head, loss_type) in tasks.items()
    },
    own=(),
    optimizer=spec(
      optim.adamw,
      rate=spec(
        optim.linear,
        peak_value=4e-5,
        warmup_steps=epochs(EPOCHS * len(tasks) / 10),
        total_steps=c.get_ref('total_steps'),
      ),
      b2=0.98,
      weight_decay=0.01,
      clip_norm=1.0,
    ),
  )
  parts = {
    'vqa': ('minval', evals.AnswerScore),
    'gqa': ('val', evals.AnswerScore),
    'refcoco': ('val', evals.RegionHits),
    'nlvr2': ('dev', classification.Accuracy),
    'entailment': ('dev', classification.Accuracy),
  }
  c.evals = {
    name: spec(
      kind,
      data=texts[name].eval_input(part, 128, workers=4),
      predict=f'{name}.predict',
      every=10_000,
    )
    for name, (part, kind) in parts.items()
    if name in tasks
  }
  if 'flickr30k' in tasks:
    inputs = language_vision.retrieval_eval('test', 16, NUMBERS['flickr30k'], workers=4)
    c.evals.flickr30k = spec(retrieval.Retrieval, predict='flickr30k.match', **inputs)
  return c


def chosen(argument: str) -> dict:
  """Returns the tasks that an argument names, joined by '+', or all of them."""
  names = list(TASKS) if argument == 'all' else argument.split('+')
  for name in names:
    check_one_of(['all', *TASKS], task=name)
  return {name: TASKS[name] for name in TASKS if name in names}
