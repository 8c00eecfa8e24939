"""Places in a picture as sines and cosines: where learned positions begin in a network that starts from scratch."""

from __future__ import annotations

import math

import torch
from torch import Tensor


def sincos_grid(side: int, dim: int) -> Tensor:
    """[side², dim] for the centres of a side x side grid, rows first; `dim` must be a multiple of 4.

    Coordinates run from 0 to 1 whatever the grid, so that a coarse grid and a fine one speak of the same places; angular
    frequencies from π/2 to 8π, so that neighbours of an 8 x 8 grid differ and distant places do not look alike.
    """
    centre = (torch.arange(side) + 0.5) / side
    frequency = 0.5 * math.pi * torch.logspace(0, 4, dim // 4, base=2.0)
    angle = centre[:, None] * frequency
    axis = torch.cat((angle.sin(), angle.cos()), dim=1)  # [side, dim / 2]
    rows, columns = axis.repeat_interleave(side, dim=0), axis.repeat(side, 1)
    return torch.cat((rows, columns), dim=1)
