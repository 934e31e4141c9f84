"""Principal neighbourhood aggregation over the dense blocks that meet at a neuron.

Source: Corso, Cavalleri, Beaini, Lio, Velickovic, "Principal Neighbourhood Aggregation for Graph Nets" (NeurIPS 2020,
arXiv:2004.05718): mean, standard deviation, maximum and minimum of the messages, each also times
``log(1 + degree) / delta`` and its inverse.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

AGGREGATES = 12  # four statistics times three scalings
DELTA = math.log(33.0)  # a fixed reference, where the paper takes the mean over the training set


class Neighbourhood:
    """Running statistics of the messages to one node set, block by block."""

    def __init__(self) -> None:
        self.count = 0
        self.total: Tensor | None = None
        self.squares = self.largest = self.smallest = torch.zeros(())

    def add(self, count: int, total: Tensor, squares: Tensor, largest: Tensor, smallest: Tensor) -> None:
        """Add the statistics ``[B, N, F]`` of ``count`` messages to every neuron."""
        if self.total is None:
            self.total, self.squares, self.largest, self.smallest = total, squares, largest, smallest
        else:
            self.total, self.squares = self.total + total, self.squares + squares
            self.largest, self.smallest = torch.maximum(self.largest, largest), torch.minimum(self.smallest, smallest)
        self.count += count

    def read(self, like: Tensor, width: int) -> Tensor:
        """``[B, N, 12 width]``; zeros where there were no messages to the neurons of ``like`` ``[B, N, F]``."""
        if self.total is None:
            return like.new_zeros(*like.shape[:2], AGGREGATES * width)
        mean = self.total / self.count
        deviation = (self.squares / self.count - mean.square()).clamp_min(0).add(1e-5).sqrt()
        found = torch.cat([mean, deviation, self.largest, self.smallest], -1)
        degree = math.log1p(self.count) / DELTA
        return torch.cat([found, found * degree, found / degree], -1)
