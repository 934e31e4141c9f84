"""The networks that metanets are timed on: those of the published zoos, chains of any size, ResNet-50 and ViT-B/16."""

from __future__ import annotations

import torch
from torch import Tensor, nn


def small_cnn() -> tuple[nn.Module, Tensor]:
    """The network of the Small CNN Zoo (Unterthiner et al. 2020): 4,970 parameters."""
    return chain(16)


def inr() -> tuple[nn.Module, Tensor]:
    """An implicit neural representation, 2-32-32-1, with tanh in place of sine: 1,185 parameters."""
    layers = [nn.Linear(2, 32), nn.Tanh(), nn.Linear(32, 32), nn.Tanh(), nn.Linear(32, 1)]
    return nn.Sequential(*layers), torch.zeros(1, 2)


def chain(width: int, convolutions: int = 3) -> tuple[nn.Module, Tensor]:
    """Convolutions of one width, global pooling, and a linear layer to ten classes."""
    layers: list[nn.Module] = []
    for number in range(convolutions):
        layers += [nn.Conv2d(width if number else 1, width, 3, stride=2), nn.ReLU()]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, 10)), torch.zeros(
        1, 1, 28, 28
    )


class Bottleneck(nn.Module):
    """The residual block of ResNet-50 (He et al. 2016), stride in the 3x3 convolution."""

    def __init__(self, inside: int, width: int, stride: int) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(inside, width, 1, bias=False), nn.BatchNorm2d(width)
        self.conv2, self.bn2 = nn.Conv2d(width, width, 3, stride, 1, bias=False), nn.BatchNorm2d(width)
        self.conv3, self.bn3 = nn.Conv2d(width, 4 * width, 1, bias=False), nn.BatchNorm2d(4 * width)
        self.down = nn.Identity()
        if stride > 1 or inside != 4 * width:
            self.down = nn.Sequential(nn.Conv2d(inside, 4 * width, 1, stride, bias=False), nn.BatchNorm2d(4 * width))

    def forward(self, x: Tensor) -> Tensor:
        """``[B, inside, H, W] -> [B, 4 width, H / stride, W / stride]``."""
        y = torch.relu(self.bn1(self.conv1(x)))
        y = torch.relu(self.bn2(self.conv2(y)))
        return torch.relu(self.bn3(self.conv3(y)) + self.down(x))


def resnet50() -> tuple[nn.Module, Tensor]:
    """ResNet-50: 25.6 million parameters."""
    blocks: list[nn.Module] = []
    inside = 64
    for stage, depth in enumerate((3, 4, 6, 3)):
        for number in range(depth):
            width = 64 * 2**stage
            blocks.append(Bottleneck(inside, width, 2 if stage and not number else 1))
            inside = 4 * width
    stem = [nn.Conv2d(3, 64, 7, 2, 3, bias=False), nn.BatchNorm2d(64), nn.ReLU(), nn.MaxPool2d(3, 2, 1)]
    head = [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(2048, 1000)]
    return nn.Sequential(*stem, *blocks, *head).eval(), torch.zeros(1, 3, 64, 64)


class VisionTransformer(nn.Module):
    """ViT-B/16 (Dosovitskiy et al. 2021), layer norms before attention and MLP, class token.

    Args:
        width: Width of the stream.
        depth: Blocks.
        heads: Attention heads.
    """

    def __init__(self, width: int = 768, depth: int = 12, heads: int = 12) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, width, 16, 16)
        self.token = nn.Parameter(torch.zeros(1, 1, width))
        self.places = nn.Parameter(torch.zeros(1, 197, width))
        self.blocks = nn.Sequential(*(Block(width, heads) for _ in range(depth)))
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, 1000)

    def forward(self, x: Tensor) -> Tensor:
        """``[B, 3, 224, 224] -> [B, 1000]``."""
        x = self.patches(x).flatten(2).transpose(1, 2)
        x = torch.cat([self.token.expand(len(x), -1, -1), x], 1) + self.places
        return self.head(self.norm(self.blocks(x))[:, 0])


class Block(nn.Module):
    """One block of :class:`VisionTransformer`."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm1, self.qkv, self.out = nn.LayerNorm(width), nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.norm2, self.up, self.down = nn.LayerNorm(width), nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        """``[B, N, width]``, of the same shape."""
        batch, count, width = x.shape
        q, k, v = self.qkv(self.norm1(x)).reshape(batch, count, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        mixed = nn.functional.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(batch, count, width)
        x = x + self.out(mixed)
        return x + self.down(nn.functional.gelu(self.up(self.norm2(x))))


def vit_b16() -> tuple[nn.Module, Tensor]:
    """ViT-B/16: 86.6 million parameters."""
    return VisionTransformer().eval(), torch.zeros(1, 3, 224, 224)
