"""The optimiser, against torch's plain AdamW and schedules written out; and what it does with what is not finite."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from safetensors.torch import load, save
from torch import nn

from openjepa.methods import IJEPAConfig, build
from openjepa.optim import OptimConfig, Optimizer
from openjepa.vision.predictor import PredictorConfig
from openjepa.vision.vit import ViTConfig

CONFIG = OptimConfig(lr=0.1, lr_start=0.02, lr_end=0.001, warmup=0.3, weight_decay=0.04, weight_decay_end=0.4)
STEPS = 12
FINE = torch.tensor(1.0)


class Model(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.norm, self.last = nn.Linear(4, 6), nn.LayerNorm(6), nn.Linear(6, 2)
        self.mask_token = nn.Parameter(torch.randn(6))
        self.frozen = nn.Parameter(torch.randn(3, 3), requires_grad=False)

    def forward(self, x):
        return self.last(torch.tanh(self.norm(self.first(x)) + self.mask_token))


def backward(model, number):
    x = torch.randn(5, 4, generator=torch.Generator().manual_seed(number), dtype=torch.float64)
    loss = model(x.to(model.mask_token.dtype)).square().mean()
    loss.backward()
    return loss


def train(model, optimizer, numbers):
    for number in numbers:
        loss = backward(model, number)
        optimizer.step(number / STEPS, loss)


def slow_lr(t):
    if t < 0.3:
        return 0.02 + 0.08 * t / 0.3
    return 0.001 + 0.099 * (1 + math.cos(math.pi * (t - 0.3) / 0.7)) / 2


SLOW_DECAY = {"linear": lambda t: 0.04 + 0.36 * t, "cosine": lambda t: 0.4 - 0.36 * (1 + math.cos(math.pi * t)) / 2}


@pytest.mark.parametrize("course", SLOW_DECAY)
@pytest.mark.parametrize("clip", [None, 0.5])
def test_it_is_adamw_on_its_schedules(course, clip):
    config = OptimConfig(**{**vars(CONFIG), "weight_decay_schedule": course, "clip": clip, "betas": (0.8, 0.9)})
    model = Model().double()
    other = copy.deepcopy(model)
    optimizer = Optimizer(model, config)
    decayed = {"first.weight", "last.weight"}
    named = [(name, parameter) for name, parameter in other.named_parameters() if parameter.requires_grad]
    groups = [{"params": [p for name, p in named if (name in decayed) == wanted]} for wanted in (True, False)]
    reference = torch.optim.AdamW(groups, betas=(0.8, 0.9), eps=1e-8, foreach=False, fused=False)
    clipped = []
    for number in range(STEPS):
        t = number / STEPS
        norm, is_skipped = optimizer.step(t, backward(model, number))
        backward(other, number)
        expected = math.sqrt(sum(p.grad.square().sum().item() for _, p in named))
        if clip is not None and expected > clip:
            clipped.append(number)
            for _, parameter in named:
                parameter.grad *= clip / (expected + 1e-6)
        for group, decay in zip(reference.param_groups, (SLOW_DECAY[course](t), 0.0), strict=True):
            group["lr"], group["weight_decay"] = slow_lr(t), decay
        reference.step()
        reference.zero_grad()
        assert not is_skipped
        assert norm.item() == pytest.approx(expected, rel=1e-12)
        assert all(parameter.grad is None for parameter in model.parameters())
        for mine, theirs in zip(model.parameters(), other.parameters(), strict=True):
            torch.testing.assert_close(mine, theirs, rtol=0, atol=1e-12)
    assert clip is None or 0 < len(clipped) < STEPS


def test_matrices_decay_and_nothing_else():
    encoder = ViTConfig((16, 16), 4, width=16, depth=2, heads=2)
    method = build(IJEPAConfig(encoder, PredictorConfig(16, 2, 2)))
    optimizer = Optimizer(method, CONFIG)
    decays, spared = optimizer.adamw.param_groups
    names = {id(parameter): name for name, parameter in method.named_parameters()}
    decayed = {names[id(parameter)] for parameter in decays["params"]}
    others = {names[id(parameter)] for parameter in spared["params"]}
    layers = [name for name, module in method.named_modules() if isinstance(module, nn.Linear)]
    assert decayed == {f"{name}.weight" for name in layers if not name.startswith("teacher.")}
    assert "predictor.mask_token" in others
    assert all("norm" in name or name.endswith("bias") for name in others - {"predictor.mask_token"})
    assert decayed | others == {name for name, parameter in method.named_parameters() if parameter.requires_grad}
    before = {name: parameter.clone() for name, parameter in method.named_parameters()}
    for parameter in method.parameters():
        parameter.grad = torch.zeros_like(parameter) if parameter.requires_grad else None
    optimizer.step(0.5, FINE)
    shrink = 1 - CONFIG.lr_at(0.5) * CONFIG.weight_decay_at(0.5)
    for name, parameter in method.named_parameters():
        torch.testing.assert_close(parameter, before[name] * (shrink if name in decayed else 1), rtol=1e-6, atol=0)


def spoil(model, loss, what):
    """A backward pass gone wrong; returns the loss."""
    if what.endswith("loss"):
        return loss * float(what.split()[0])
    model.norm.bias.grad[2] = float(what.split()[0])
    return loss


@pytest.mark.parametrize("what", ["nan loss", "inf loss", "inf gradient", "-inf gradient", "nan gradient"])
@pytest.mark.parametrize("clip", [None, 0.5])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("steps_before", [0, 3])
def test_what_is_not_finite_never_reaches_weights_or_moments(what, clip, dtype, steps_before):
    config = OptimConfig(**{**vars(CONFIG), "clip": clip})
    model = Model().to(dtype)
    untouched = copy.deepcopy(model)
    optimizer, calm = Optimizer(model, config), Optimizer(untouched, config)
    train(model, optimizer, range(steps_before))
    train(untouched, calm, range(steps_before))
    loss = spoil(model, backward(model, 99), what)
    _, is_skipped = optimizer.step(0.5, loss)
    assert is_skipped
    assert all(parameter.grad is None for parameter in model.parameters())
    for mine, theirs in zip(model.parameters(), untouched.parameters(), strict=True):
        assert torch.equal(mine, theirs)
    expected = calm.tensors()
    for name, tensor in optimizer.tensors().items():
        assert torch.equal(tensor, expected[name] if steps_before else torch.zeros_like(tensor)), name
    # and the run goes on as though the step had not been
    train(model, optimizer, range(steps_before, STEPS))
    train(untouched, calm, range(steps_before, STEPS))
    for mine, theirs in zip(model.parameters(), untouched.parameters(), strict=True):
        assert torch.equal(mine, theirs)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_run_goes_on_bit_for_bit_from_saved_tensors(dtype):
    model = Model().to(dtype)
    optimizer = Optimizer(model, CONFIG)
    assert optimizer.tensors() == {}
    train(model, optimizer, range(5))
    tensors = load(save(optimizer.tensors()))
    trainable = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert set(tensors) == {f"{name}/{part}" for name in trainable for part in ("exp_avg", "exp_avg_sq", "step")}
    assert {tensor.item() for name, tensor in tensors.items() if name.endswith("/step")} == {5}
    resumed = copy.deepcopy(model)
    again = Optimizer(resumed, CONFIG)
    again.load(tensors)
    train(model, optimizer, range(5, STEPS))
    train(resumed, again, range(5, STEPS))
    for mine, theirs in zip(model.parameters(), resumed.parameters(), strict=True):
        assert torch.equal(mine, theirs)
    for name, tensor in optimizer.tensors().items():
        assert torch.equal(tensor, again.tensors()[name])
    assert {tensor.item() for name, tensor in tensors.items() if name.endswith("/step")} == {5}, "load must copy"


def test_all_mistakes_are_told_at_once_by_field():
    assert OptimConfig().mistakes() == []
    wrong = OptimConfig(-1.0, float("nan"), float("inf"), 1.0, -0.1, -0.2, "linear", (0.9, 1.0), 0.0).mistakes()
    fields = ["lr", "lr_start", "lr_end", "weight_decay", "weight_decay_end", "warmup", "betas", "clip"]
    assert [mistake.split(" = ")[0] for mistake in wrong] == [f"optim.{field}" for field in fields]
    assert OptimConfig(clip=float("nan")).mistakes() != []
