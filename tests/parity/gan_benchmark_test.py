"""Parity of our GANsformer with the plain PyTorch one of its benchmark."""

import numpy as np
import torch

from tools.benchmark import gan as tool
from tools.benchmark.parts import torch_gan


def test_images_logits_and_penalties_are_equal():
  ours = tool.Ours(16, 4, 4)
  assert tool.difference(ours) < 1e-4
  params = {'params': ours.state.params['discriminator']}
  real = ours.batch['image']
  logits = ours.task.discriminator.apply(params, real)['logit']
  side = torch_gan.Side(ours.job)
  own = torch_gan.Arrays(side.discriminator)
  theirs = torch_gan.judge(own, side.real).detach().numpy()
  np.testing.assert_allclose(logits, theirs, rtol=1e-4, atol=1e-4)
  image = side.real.clone().requires_grad_()
  (slope,) = torch.autograd.grad(torch_gan.judge(own, image).sum(), image)
  square = tool.adversarial.gradient_square(
    lambda x: ours.task.discriminator.apply(params, x)['logit'], real
  )
  want = slope.square().sum(dim=(1, 2, 3)).numpy()
  np.testing.assert_allclose(square, want, rtol=1e-3)
