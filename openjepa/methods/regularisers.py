"""Anti-collapse terms on rows of representations: variance-covariance and SIGReg.

Not in the I-JEPA paper: C-JEPA (arXiv 2410.19560) adds VICReg's terms (arXiv 2105.04906), LeJEPA (arXiv 2511.08544)
SIGReg. Both are statistics of the batch, so under many processes they take the rows of all ranks.
"""

from __future__ import annotations

import torch
from torch import Tensor

from openjepa.distributed import gather_rows
from openjepa.randomness import torch_generator

COVARIANCE_SHARE = 1 / 25  # VICReg weighs variance 25 to covariance 1
NUM_DIRECTIONS = 256  # of the projections that SIGReg tests for normality
KNOTS, KNOT_END = 17, 5.0  # LeJEPA's quadrature of the Epps-Pulley statistic: 17 points on [0, 5]


def variance_covariance(x: Tensor, is_even: bool = True) -> Tensor:
    """(B, D) -> (): how far standard deviations fall short of 1, and how correlated dimensions are.

    `is_even`: every process has as many rows.
    """
    x = gather_rows(x, is_even).to(torch.promote_types(x.dtype, torch.float32))
    x = x - x.mean(dim=0)
    with torch.autocast(x.device.type, enabled=False):  # it would round the product to bfloat16
        covariance = x.T @ x / max(x.shape[0] - 1, 1)
    variance = covariance.diagonal()
    shortfall = torch.relu(1 - (variance + 1e-4).sqrt()).mean()
    correlation = (covariance.square().sum() - variance.square().sum()) / x.shape[1]
    return shortfall + COVARIANCE_SHARE * correlation


def sigreg(x: Tensor, seed: int, step: int, is_even: bool = True) -> Tensor:
    """(B, D) -> (): Epps-Pulley distance of random projections from a standard normal; `is_even` as above.

    The squared distance between empirical and normal characteristic functions under a Gaussian window,
    averaged over directions and, as in LeJEPA, scaled by the number of rows.
    """
    x = gather_rows(x, is_even).to(torch.promote_types(x.dtype, torch.float32))
    draw = torch_generator(seed, "sigreg", step)
    directions = torch.randn(x.shape[1], NUM_DIRECTIONS, generator=draw, pin_memory=x.is_cuda)
    directions = directions.to(x.device, non_blocking=True).to(x.dtype)
    directions = directions / directions.norm(dim=0)
    knots = torch.linspace(0, KNOT_END, KNOTS, device=x.device, dtype=x.dtype)
    normal = torch.exp(-0.5 * knots.square())
    with torch.autocast(x.device.type, enabled=False):  # it would round the product to bfloat16
        angles = (x @ directions)[:, :, None] * knots
    error = (angles.cos().mean(0) - normal).square() + angles.sin().mean(0).square()
    # the integrand is even: twice the integral over the positive half
    statistic = 2 * torch.trapezoid(error * normal, knots, dim=1)
    return statistic.mean() * x.shape[0]
