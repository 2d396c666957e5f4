"""Golden checks of GANsformer: attention, resampling, both networks and their losses.

Axes: B batch, N pixels, D width, K components, H heads, h w map, u v the same after
resampling, C channels, L layers.
"""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from big_vision_like.layers.bipartite import BipartiteAttention
from big_vision_like.models import discriminator as discriminators
from big_vision_like.models import gansformer as models
from big_vision_like.ops import fir, modulation
from big_vision_like.tasks import adversarial
from big_vision_like.weights import gansformer_names as names
from big_vision_like.weights import tree
from tools.golden.common import (
  Check,
  Fields,
  Results,
  Tolerance,
  choice,
  float_name,
  gradient_results,
  select,
  widened,
)

LAYER = Tolerance(absolute=2e-5)
GRADIENT = Tolerance(relative=1e-4)
NETWORK = Tolerance(absolute=1e-4, relative=1e-5)
OPS = Tolerance(absolute=1e-5)
# Absolute tolerance as a share of the largest gradient of a network.
ROUNDING = 1e-6


def attention(description: Fields, arrays: Fields) -> Results:
  """Computes every layer of a file: its name tells kind, integration and norm."""
  results: Results = {}
  for name in sorted({key.split('/')[1] for key in arrays if key.startswith('input/')}):
    inputs = select(arrays, f'input/{name}/')
    wanted = {k for k in arrays if k.startswith((f'output/{name}/', f'grad/{name}/'))}
    own = _attention_layer(description, name, inputs, select(arrays, f'param/{name}/'))
    results |= {key: own[key] for key in wanted if key in own}
  return results


def _attention_layer(
  description: Fields,
  name: str,
  inputs: Mapping[str, np.ndarray],
  published: Mapping[str, np.ndarray],
) -> Results:
  words = name.split('_')
  gates = any('gate' in key for key in published)
  width = inputs['from'].shape[-1]
  double = len(published['modulation.bias']) // width
  norms = [norm for norm in ('layer', 'instance') if norm in words]
  layer = BipartiteAttention(
    width,
    num_heads=description['num_heads'],
    duplex='centroids' in published,
    iterations=next((int(w[5:]) for w in words if w.startswith('iters')), 1),
    integration='both' if double == 2 else 'add' if 'add' in words else 'mul',
    norm=norms[0] if norms else 'layer' if gates else 'none',
    gate_from=gates,
    gate_to=gates,
    dtype=float_name(),
  )
  ours = {names.attention_name(key): value for key, value in published.items()}
  flat = {key: names.ours_of(key, value) for key, value in ours.items()}
  params = widened(tree.unflatten(flat))
  positions = inputs['from_pos'], inputs['to_pos']

  def run(params: tree.Tree, x_BND: jax.Array, y_BKW: jax.Array) -> tuple:
    found = layer.apply({'params': params}, x_BND, y_BKW, *positions)
    return (found['elements'] * inputs['loss_weight']).sum(), found

  gradient = jax.jit(jax.value_and_grad(run, argnums=(0, 1, 2), has_aux=True))
  (_, found), grads = gradient(params, inputs['from'], inputs['to'])
  p_BHNK = found['attention']
  side = int(np.sqrt(p_BHNK.shape[2]))
  maps = p_BHNK.swapaxes(-1, -2).reshape(-1, p_BHNK.shape[-1], side, side)
  results = {
    f'output/{name}/from': (found['elements'], LAYER),
    f'output/{name}/attention_map_nchw': (maps, LAYER),
    f'output/{name}/centroid_assignments': (found['assignments'], LAYER),
    f'grad/{name}/input_from': (grads[1], GRADIENT),
    f'grad/{name}/input_to': (grads[2], GRADIENT),
  }
  flat = tree.flatten(jax.device_get(grads[0]))
  for key, value in flat.items():
    theirs = names.their_attention_name(key)
    results[f'grad/{name}/{theirs}'] = (names.theirs_of(key, value), GRADIENT)
  return results


def generator_of(description: Fields) -> models.Generator:
  """Returns the generator of a file's description."""
  architectures = {'resnet': 'residual', 'skip': 'skip'}
  return models.Generator(
    description['img_resolution'],
    components=description['k_including_global'] - 1,
    latent_width=description['w_dim'],
    channel_base=description['channel_base'],
    channel_max=description['channel_max'],
    style=description['style'],
    architecture=choice(description, 'g_architecture', architectures),
    mapping=dict(
      layers=description['mapping_layers'], attention=description['ltnt2ltnt']
    ),
    attention=dict(
      duplex=description['duplex_kmeans'],
      num_heads=description['num_heads'],
      integration=description['integration'],
      norm=description['norm'] or 'none',
      gate_from=description['gates'],
      gate_to=description['gates'],
    ),
    dtype=float_name(),
  )


def networks(description: Fields, arrays: Fields) -> Results:
  """Computes both networks, their losses, R1 norms and gradients."""
  generator = generator_of(description)
  discriminator = discriminators.Discriminator(
    description['img_resolution'],
    channel_base=description['channel_base'],
    channel_max=description['channel_max'],
    deviation_group=description['mbstd_group'],
    dtype=float_name(),
  )
  published = select(arrays, 'param/') | select(arrays, 'buffer/')
  own = widened(names.generator(select(published, 'G.')))
  judge = widened(names.discriminator(select(published, 'D.')))
  latents_BKZ = arrays['input/z']
  real_BHWC = arrays['input/real'].transpose(0, 2, 3, 1)

  def generate(variables: tree.Tree, noise: str = 'constant', psi: float = 1.0) -> Any:
    return generator.apply(variables, latents_BKZ, noise=noise, psi=psi)

  def logits(image_BHWC: jax.Array) -> jax.Array:
    return discriminator.apply(judge, image_BHWC)['logit']

  def generator_loss(params: tree.Tree) -> tuple[jax.Array, Any]:
    outputs = generate({**own, 'params': params})
    fake_B = logits(outputs['image'])
    return adversarial.generator_loss(fake_B).mean(), (outputs, fake_B)

  run = jax.jit(jax.value_and_grad(generator_loss, has_aux=True))
  (loss, (outputs, fake_B)), gradients = run(own['params'])
  real_B = jax.jit(logits)(real_BHWC)
  square_B = jax.jit(lambda image: adversarial.gradient_square(logits, image))(
    real_BHWC
  )
  cut = jax.jit(lambda: generate(own, 'none', 0.7))()
  results: Results = {
    'output/ws': (outputs['styles'], NETWORK),
    'output/image': (_nchw(outputs['image']), NETWORK),
    'output/image_psi0.7_nonoise': (_nchw(cut['image']), NETWORK),
    'output/attention': (attention_stack(outputs), NETWORK),
    'output/d_fake_logits': (fake_B[:, None], NETWORK),
    'output/d_real_logits': (real_B[:, None], NETWORK),
    'output/g_loss_nonsaturating': (loss, NETWORK),
    'output/d_loss_logistic': (
      adversarial.discriminator_loss(real_B, fake_B).mean(),
      NETWORK,
    ),
    'output/r1_sq_norm': (square_B, NETWORK),
  }
  # Gradients that are zero but for rounding: key biases do not change a softmax.
  largest = max(float(np.abs(x).max()) for x in jax.tree.leaves(gradients))
  tolerance = GRADIENT._replace(absolute=ROUNDING * largest)
  listed = gradient_results({'params': gradients}, names.to_generator, tolerance)
  results |= {name.replace('grad/', 'grad/G.'): own for name, own in listed.items()}
  return results | _operations(arrays)


def attention_stack(outputs: Mapping[str, jax.Array]) -> jax.Array:
  """Returns the maps of all layers at the size of the image, (B, K, L, H, h, w)."""
  side, found = outputs['image'].shape[1], []
  layers = [name for name in sorted(outputs) if name.startswith('attention_')]
  # From the smallest map to the largest, since `sorted` puts 16 before 4.
  for name in sorted(layers, key=lambda name: outputs[name].shape[-1]):
    maps_BHKhw = outputs[name]
    times = side // maps_BHKhw.shape[-1]
    found.append(maps_BHKhw.repeat(times, -1).repeat(times, -2).swapaxes(1, 2))
  return jnp.stack(found, axis=2)


def _operations(arrays: Fields) -> Results:
  x_BhwC = jnp.asarray(arrays['input/ops/x'].transpose(0, 2, 3, 1))
  kernel_rsIO = arrays['input/ops/weight'].transpose(2, 3, 1, 0)
  style_BI = arrays['input/ops/styles']
  taps = np.outer(fir.TAPS, fir.TAPS)
  found = {
    'resample_kernel': taps / taps.sum(),
    'upsample2d': _nchw(fir.upsample(x_BhwC)),
    'downsample2d': _nchw(fir.downsample(x_BhwC)),
    'conv2d_down2': _nchw(fir.convolve(x_BhwC, kernel_rsIO, 'down')),
  }
  for name, resample in ('up1', None), ('up2', 'up'):
    y_BuvC = modulation.modulated_conv(x_BhwC, kernel_rsIO, style_BI, resample)
    found[f'modulated_conv2d_{name}'] = _nchw(y_BuvC)
  return {f'output/ops/{name}': (value, OPS) for name, value in found.items()}


def _nchw(x_BhwC: jax.Array) -> jax.Array:
  return jnp.transpose(x_BhwC, (0, 3, 1, 2))


CHECKS = (
  Check(
    attention,
    'dorarad/gansformer pytorch_version TransformerLayer',
    fields=('from_len', 'to_len', 'pos_dim', 'num_heads'),
  ),
  Check(
    networks,
    'dorarad/gansformer pytorch_version networks',
    fields=('img_resolution', 'k_including_global', 'duplex_kmeans'),
  ),
)
