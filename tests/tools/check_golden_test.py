import json
import pathlib

import numpy as np
import pages
import pytest

ROOT = pathlib.Path(__file__).parents[2]
GOLDEN = ROOT / 'tests' / 'golden'
FILES = [
  'big_vision_optimizer',
  'bit_v1_gn_ws',
  'bit_v2',
  'coco_ap',
  'detr_boxes_matching_loss',
  'detr_dc5_prenorm',
  'detr_maskhead',
  'detr_panoptic_postprocess',
  'detr_tiny',
  'fewshot_lsr',
  'imagenet_real_metric',
  'mixup_cutmix',
  'panoptic_quality',
  'posemb_resize',
  'posemb_resize_bicubic',
  'randaugment_tf_ops',
  'repeated_augmentation',
  'slot_attention_autoencoder',
  'slot_attention_classifier',
  'slot_attention_module',
  'slot_metrics',
  'timm_vit',
  'torch_resize',
  'transformer_beam_search',
  'transformer_postnorm_tiny',
  'transformer_prenorm_tiny',
  'vit_bv_gap_sincos_rep',
  'vit_bv_map_learn',
  'vit_bv_tok_learn',
  'vit_gap_norep',
  'vit_hybrid',
  'vit_hybrid_stem',
  'vit_published_npz',
  'vit_tok_rep',
]


@pytest.fixture(scope='module')
def check_golden():
  return pages.load_tools('check_golden')[0]


@pytest.fixture
def altered(tmp_path):
  """Writes a copy of a golden file with other arrays or another description."""

  def write(name, arrays=(), drop=(), **description):
    with np.load(GOLDEN / f'{name}.npz') as file:
      kept = {key: file[key] for key in file.files if key not in drop}
    np.savez(tmp_path / f'{name}.npz', **kept | dict(arrays))
    text = json.loads((GOLDEN / f'{name}.json').read_text()) | description
    (tmp_path / f'{name}.json').write_text(json.dumps(text))
    return str(tmp_path / f'{name}.npz')

  return write


def golden(name, key):
  with np.load(GOLDEN / f'{name}.npz') as file:
    return file[key]


@pytest.mark.parametrize('name', FILES)
def test_golden_file_is_within_tolerance(check_golden, name, capsys):
  assert check_golden.main([str(GOLDEN / f'{name}.npz')]) == 0, capsys.readouterr().out


def test_a_description_alone(check_golden, tmp_path, capsys):
  text = (GOLDEN / 'bit_hyperrule.json').read_text()
  assert check_golden.main([str(GOLDEN / 'bit_hyperrule.json')]) == 0
  assert '37 of 37 within tolerance' in capsys.readouterr().out
  changed = tmp_path / 'changed.json'
  changed.write_text(text.replace('0.00297', '0.00298'))
  assert check_golden.main([str(changed)]) == 1
  assert 'TOO LARGE' in capsys.readouterr().out


CHANGES = {
  'vit_bv_tok_learn': {
    'output/logits': 3e-5,
    'output/encoder/block01/sa': 1e-2,
    'output/loss_softmax_xent': 1e-4,
    'grad/pos_embedding': 1e-4,
  },
  'vit_published_npz': {'converted/cls': 1e-6},
  'bit_v2': {'output/root': 1e-2, 'grad/resnet/head/conv2d/bias': 1e-3},
  'imagenet_real_metric': {'output/n_scored': 1},
  'posemb_resize': {'output/posemb_1': 2e-6},
  'fewshot_lsr': {'output/0/scores': 2e-3, 'output/0/indices_seed1_3shot': 1},
  'timm_vit': {'output/map/logits': np.nan},
  'big_vision_optimizer': {
    'output/0/schedule': 2e-6,
    'output/0/step5/head/kernel': 2e-6,
    'output/2/step1/head/kernel': 2e-3,
  },
}


@pytest.mark.parametrize('name', CHANGES)
def test_each_changed_number_is_noticed(check_golden, altered, name, capsys):
  arrays = {key: golden(name, key).copy() for key in CHANGES[name]}
  for key, array in arrays.items():
    array[(0,) * array.ndim] += CHANGES[name][key]
  assert check_golden.main([altered(name, arrays)]) == 1
  lines = capsys.readouterr().out.splitlines()
  noticed = {line.split()[0] for line in lines if 'TOO LARGE' in line}
  assert noticed == arrays.keys()


def test_an_output_without_counterpart_is_noticed(check_golden, altered, capsys):
  path = altered('posemb_resize', {'output/posemb_9': np.zeros(3)})
  assert check_golden.main([path]) == 1
  assert 'no counterpart' in capsys.readouterr().out


def test_a_wrong_shape_is_noticed(check_golden, altered, capsys):
  wrong = golden('posemb_resize', 'output/posemb_0')[:, :-1]
  assert check_golden.main([altered('posemb_resize', {'output/posemb_0': wrong})]) == 1
  assert 'ours has shape 1x50x5' in capsys.readouterr().out


def config_of(name, **changes):
  return json.loads((GOLDEN / f'{name}.json').read_text())['config'] | changes


@pytest.mark.parametrize(
  'description, drop, words',
  [
    (dict(reference='someone/else'), [], "the reference 'someone/else'"),
    ({}, ['param/head/bias'], 'missing head/bias'),
    (dict(config=config_of('vit_gap_norep', classifier='x')), [], "classifier 'x'"),
    (dict(config=config_of('vit_gap_norep', num_layers=3)), [], 'encoder/block_2'),
    (dict(config=config_of('vit_gap_norep', mlp_dim=73)), [], 'shape'),
    (dict(config={}), [], "lacks 'num_classes'"),
    ({}, ['input/image'], "lacks 'input/image'"),
    ({}, ['output/loss_softmax_xent'], 'does not say of which loss'),
  ],
)
def test_a_file_that_cannot_be_checked(
  check_golden, altered, description, drop, words, capsys
):
  path = altered('vit_gap_norep', drop=drop, **description)
  assert check_golden.main([path]) == 2
  message = capsys.readouterr().err
  assert path in message and words in message
  assert message.count('\n') == 1


def test_missing_files(check_golden, altered, tmp_path, capsys):
  path = pathlib.Path(altered('posemb_resize'))
  path.with_suffix('.json').unlink()
  good = str(GOLDEN / 'posemb_resize.npz')
  assert check_golden.main([str(tmp_path / 'nothing.npz'), good, str(path)]) == 2
  output = capsys.readouterr()
  assert '3 of 3 within tolerance' in output.out
  assert 'no such .npz file' in output.err and 'posemb_resize.json' in output.err
