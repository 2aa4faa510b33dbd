"""The anti-collapse terms, against loops and, for the test of normality, against its closed form."""

from __future__ import annotations

import math

import pytest
import torch

from openjepa.methods.regularisers import KNOT_END, KNOTS, NUM_DIRECTIONS, sigreg, variance_covariance
from openjepa.randomness import torch_generator

TERMS = {"variance_covariance": variance_covariance, "sigreg": lambda x: sigreg(x, seed=3, step=4)}


def slow_variance_covariance(x):
    """VICReg's terms, weighted 25 to 1, written over the larger weight."""
    rows, width = x.shape
    means = [sum(x[b, i].item() for b in range(rows)) / rows for i in range(width)]

    def covariance(i, j):
        return sum((x[b, i].item() - means[i]) * (x[b, j].item() - means[j]) for b in range(rows)) / (rows - 1)

    variance = sum(max(0, 1 - math.sqrt(covariance(i, i) + 1e-4)) for i in range(width)) / width
    correlation = sum(covariance(i, j) ** 2 for i in range(width) for j in range(width) if i != j) / width
    return variance + correlation / 25


def slow_directions(width, seed, step):
    drawn = torch.randn(width, NUM_DIRECTIONS, generator=torch_generator(seed, "sigreg", step), dtype=torch.float32)
    return [direction / direction.norm() for direction in drawn.double().T]


def slow_sigreg(x, seed, step):
    """The trapezoid over both halves of the axis, point by point."""
    rows, width = x.shape
    knots = [KNOT_END * i / (KNOTS - 1) for i in range(1 - KNOTS, KNOTS)]
    total = 0.0
    for direction in slow_directions(width, seed, step):
        places = [float(row @ direction) for row in x]
        heights = []
        for knot in knots:
            real = sum(math.cos(knot * place) for place in places) / rows
            imaginary = sum(math.sin(knot * place) for place in places) / rows
            normal = math.exp(-(knot**2) / 2)
            heights.append(((real - normal) ** 2 + imaginary**2) * normal)
        step_size = knots[1] - knots[0]
        total += step_size * (sum(heights) - (heights[0] + heights[-1]) / 2)
    return total / NUM_DIRECTIONS * rows


def closed_sigreg(x, seed, step):
    """The integral over the whole axis that the trapezoid stands for (Epps and Pulley 1983)."""
    rows, total = len(x), 0.0
    for direction in slow_directions(x.shape[1], seed, step):
        places = x @ direction
        pairs = torch.exp(-((places[:, None] - places) ** 2) / 2).sum() / rows
        crossed = torch.exp(-(places**2) / 4).sum()
        total += math.sqrt(2 * math.pi) * pairs - 2 * math.sqrt(math.pi) * crossed + rows * math.sqrt(2 * math.pi / 3)
    return total / NUM_DIRECTIONS


@pytest.mark.parametrize("scale", [0.3, 1.0, 4.0])
def test_variance_covariance_is_vicregs(scale):
    x = scale * torch.randn(7, 5, dtype=torch.float64) + 3
    assert variance_covariance(x).item() == pytest.approx(slow_variance_covariance(x), abs=1e-12)


@pytest.mark.parametrize("scale", [0.3, 1.0, 4.0])
def test_sigreg_is_the_distance_from_a_normal(scale):
    x = scale * torch.randn(6, 4, dtype=torch.float64) + 0.5
    term = sigreg(x, seed=3, step=4).item()
    assert term == pytest.approx(slow_sigreg(x, 3, 4), abs=1e-10)
    assert term == pytest.approx(closed_sigreg(x, 3, 4).item(), abs=1e-3)


def test_directions_belong_to_seed_and_step():
    x = torch.randn(6, 4)
    assert sigreg(x, 1, 2) == sigreg(x, 1, 2)
    assert len({sigreg(x, seed, step).item() for seed in (1, 2) for step in (1, 2)}) == 4


@pytest.mark.parametrize("term", TERMS.values(), ids=TERMS)
def test_collapse_costs_more_than_a_standard_normal(term):
    normal = torch.randn(512, 8)
    point = torch.randn(1, 8).expand(512, -1)
    line = normal[:, :1] * torch.randn(1, 8)
    small = normal / 10
    best = term(normal).item()
    # 512 rows deviate from their own distribution by chance
    assert best < (0.1 if term is variance_covariance else 2)
    for collapsed in (point, line, small):
        assert term(collapsed).item() > 5 * best


@pytest.mark.parametrize("term", TERMS.values(), ids=TERMS)
def test_its_gradient_leads_out_of_collapse(term):
    x = (0.1 * torch.randn(64, 4)).requires_grad_()
    (gradient,) = torch.autograd.grad(term(x), x)
    assert torch.isfinite(gradient).all()
    assert term(x - gradient) < term(x)
    assert (x - gradient).std() > x.std()


@pytest.mark.parametrize("term", TERMS.values(), ids=TERMS)
def test_low_precision_does_not_reach_the_statistics(term):
    x = 3 * torch.randn(32, 8)
    with torch.autocast("cpu", torch.bfloat16):
        inside = term(x)
    assert inside.dtype == torch.float32
    assert inside == term(x)
    assert term(x.bfloat16()).dtype == torch.float32
