"""T2T-ViT in plain PyTorch, from the equations of arXiv:2101.11986.

timm has no T2T-ViT, so the benchmark compares ours with this model. It has Performers
between soft splits, then plain blocks. Parameters have the names of the published code.
There is neither dropout nor drop path.

Axes: B batch, N tokens, C channels, F random features, D width.
"""

import math
from typing import Any

import torch
from torch import nn
from torch.nn import functional

from big_vision_like.models import t2t_vit
from big_vision_like.ops import positions

EPSILON = 1e-5


class Performer(nn.Module):
  """Linear attention of one head, which changes the width, then an MLP."""

  def __init__(self, features: int, width: int):
    super().__init__()
    self.kqv = nn.Linear(features, 3 * width)
    self.proj = nn.Linear(width, width)
    self.norm1 = nn.LayerNorm(features, EPSILON)
    self.norm2 = nn.LayerNorm(width, EPSILON)
    self.mlp = nn.Sequential(
      nn.Linear(width, width), nn.GELU(), nn.Linear(width, width)
    )
    count = width // 2
    rows = nn.init.orthogonal_(torch.empty(count, width)) * math.sqrt(count)
    self.w = nn.Parameter(rows, requires_grad=False)

  def phi(self, x_BNC: torch.Tensor) -> torch.Tensor:
    """Returns the positive random features, (B, N, F)."""
    half_BN1 = x_BNC.square().sum(dim=-1, keepdim=True) / 2
    return torch.exp(x_BNC @ self.w.T - half_BN1) / math.sqrt(len(self.w))

  def forward(self, x_BNC: torch.Tensor) -> torch.Tensor:
    k_BNC, q_BNC, v_BNC = self.kqv(self.norm1(x_BNC)).chunk(3, dim=-1)
    k_BNF, q_BNF = self.phi(k_BNC), self.phi(q_BNC)
    sum_BN1 = q_BNF @ k_BNF.sum(dim=1)[..., None]
    y_BNC = q_BNF @ (k_BNF.transpose(1, 2) @ v_BNC) / (sum_BN1 + 1e-8)
    y_BNC = v_BNC + self.proj(y_BNC)
    return y_BNC + self.mlp(self.norm2(y_BNC))


class TokensToToken(nn.Module):
  """Three soft splits that map images (B, C, H, W) to tokens (B, N, D)."""

  def __init__(self, channels: int, token_dim: int, width: int):
    super().__init__()
    first, second, third = (size**2 for size, _, _ in t2t_vit.SPLITS)
    self.attention1 = Performer(channels * first, token_dim)
    self.attention2 = Performer(token_dim * second, token_dim)
    self.project = nn.Linear(token_dim * third, width)

  def forward(self, x_BCHW: torch.Tensor) -> torch.Tensor:
    for split, layer in zip(
      t2t_vit.SPLITS, (self.attention1, self.attention2, self.project), strict=True
    ):
      size, stride, padding = split
      height, width = (
        (side + 2 * padding - size) // stride + 1 for side in x_BCHW.shape[2:]
      )
      unfolded_BCN = functional.unfold(x_BCHW, size, padding=padding, stride=stride)
      y_BNC = layer(unfolded_BCN.transpose(1, 2))
      x_BCHW = y_BNC.transpose(1, 2).reshape(len(y_BNC), -1, height, width)
    return y_BNC


class Attention(nn.Module):
  """Multi-head self-attention without biases of queries, keys and values."""

  def __init__(self, width: int, num_heads: int):
    super().__init__()
    self.num_heads = num_heads
    self.qkv = nn.Linear(width, 3 * width, bias=False)
    self.proj = nn.Linear(width, width)

  def forward(self, x_BND: torch.Tensor) -> torch.Tensor:
    batch, tokens, width = x_BND.shape
    parts = self.qkv(x_BND).reshape(batch, tokens, 3, self.num_heads, -1)
    query, key, value = parts.permute(2, 0, 3, 1, 4)
    read = functional.scaled_dot_product_attention(query, key, value)
    return self.proj(read.transpose(1, 2).reshape(batch, tokens, width))


class Block(nn.Module):
  """Attention and an MLP, each after a norm and added to its input."""

  def __init__(self, width: int, num_heads: int, mlp_dim: int):
    super().__init__()
    self.norm1, self.norm2 = (nn.LayerNorm(width, EPSILON) for _ in range(2))
    self.attn = Attention(width, num_heads)
    self.mlp = nn.ModuleDict(
      dict(fc1=nn.Linear(width, mlp_dim), fc2=nn.Linear(mlp_dim, width))
    )

  def forward(self, x_BND: torch.Tensor) -> torch.Tensor:
    x_BND = x_BND + self.attn(self.norm1(x_BND))
    hidden = functional.gelu(self.mlp['fc1'](self.norm2(x_BND)))
    return x_BND + self.mlp['fc2'](hidden)


class T2TViT(nn.Module):
  """A T2T-ViT from images (B, C, S, S) to logits; arguments as in `t2t_vit.T2TViT`."""

  def __init__(
    self,
    num_classes: int,
    width: int,
    depth: int,
    num_heads: int,
    mlp_dim: int,
    image_size: int = 224,
    token_dim: int = 64,
    channels: int = 3,
  ):
    super().__init__()
    tokens = (image_size // t2t_vit.STRIDE) ** 2
    self.tokens_to_token = TokensToToken(channels, token_dim, width)
    self.cls_token = nn.Parameter(0.02 * torch.randn(1, 1, width))
    table_1ND = torch.from_numpy(positions.sinusoid_table(tokens + 1, width))
    self.pos_embed = nn.Parameter(table_1ND, requires_grad=False)
    self.blocks = nn.Sequential(
      *(Block(width, num_heads, mlp_dim) for _ in range(depth))
    )
    self.norm = nn.LayerNorm(width, EPSILON)
    self.head = nn.Linear(width, num_classes)

  def forward(self, image_BCHW: torch.Tensor) -> torch.Tensor:
    x_BND = self.tokens_to_token(image_BCHW)
    class_B1D = self.cls_token.expand(len(x_BND), -1, -1)
    x_BND = torch.cat([class_B1D, x_BND], dim=1) + self.pos_embed
    return self.head(self.norm(self.blocks(x_BND))[:, 0])


def make(name: str, num_classes: int, image_size: int) -> nn.Module:
  """Returns the model of a published size, such as '14'."""
  sizes: dict[str, Any] = t2t_vit.variant(name)
  kinds = sizes.pop('tokens'), sizes.pop('backbone'), sizes.pop('groups')
  if kinds != ('performer', 'plain', ()):
    raise ValueError(f'{name} does not have the Performer and plain blocks')
  return T2TViT(num_classes, image_size=image_size, **sizes)
