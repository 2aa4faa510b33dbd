"""Attention, blocks and their initialisation, against loops that say what they should be."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from openjepa.vision.transformer import INIT_STD, Attention, Block, Transformer, initialise

WIDTH, HEADS, HIDDEN = 16, 4, 24
pytestmark = pytest.mark.usefixtures("float64")


def slow_linear(layer, x):
    return torch.stack([(layer.weight[i] * x).sum() + layer.bias[i] for i in range(len(layer.bias))])


def slow_norm(layer, x):
    variance = ((x - x.mean()) ** 2).mean()
    return (x - x.mean()) / (variance + 1e-6).sqrt() * layer.weight + layer.bias


def slow_attention(attention, tokens, valid):
    """One sequence (L, D); `valid` is a list of bool."""
    length, width = tokens.shape
    size = width // attention.heads
    qkv = [slow_linear(attention.qkv, token) for token in tokens]
    out = []
    for query in range(length):
        heads = []
        for head in range(attention.heads):
            q, k, v = ([row[p * width + head * size :][:size] for row in qkv] for p in range(3))
            seen = [j for j in range(length) if valid[j]]
            scores = [math.exp((q[query] * k[j]).sum() / math.sqrt(size)) for j in seen]
            heads.append(sum(score / sum(scores) * v[j] for score, j in zip(scores, seen, strict=True)))
        out.append(slow_linear(attention.proj, torch.cat(heads)))
    return torch.stack(out)


def slow_gelu(x):
    return torch.tensor([a / 2 * (1 + math.erf(a / math.sqrt(2))) for a in x.tolist()])


def slow_block(block, tokens, valid):
    normed = torch.stack([slow_norm(block.norm1, token) for token in tokens])
    tokens = tokens + slow_attention(block.attn, normed, valid)
    mlp = [slow_linear(block.mlp.fc2, slow_gelu(slow_linear(block.mlp.fc1, slow_norm(block.norm2, t)))) for t in tokens]
    return tokens + torch.stack(mlp)


@pytest.fixture
def valid():
    """Two sequences of five tokens, the second with two of padding."""
    return torch.tensor([[True] * 5, [True, True, True, False, False]])


@torch.no_grad()
def test_attention_is_the_softmax_over_the_keys_that_count(stirred, valid):
    attention, x = stirred(Attention(WIDTH, HEADS)), torch.randn(2, 5, WIDTH)
    everything = torch.stack([slow_attention(attention, tokens, [True] * 5) for tokens in x])
    torch.testing.assert_close(attention(x), everything, rtol=0, atol=1e-12)
    masked = torch.stack([slow_attention(attention, *row) for row in zip(x, valid, strict=True)])
    torch.testing.assert_close(attention(x, valid[:, None, None]), masked, rtol=0, atol=1e-12)
    assert not torch.allclose(masked, everything)


@torch.no_grad()
def test_a_stack_is_its_blocks_one_after_the_other(stirred, valid):
    stack, x = stirred(Transformer(WIDTH, 3, HEADS, HIDDEN)), torch.randn(2, 5, WIDTH)
    expected, tokens = [], x
    for block in stack:
        tokens = torch.stack([slow_block(block, *row) for row in zip(tokens, valid, strict=True)])
        expected.append(tokens)
    for num_last in (1, 2, 3):
        outputs = stack(x, valid, num_last)
        torch.testing.assert_close(outputs, expected[-num_last:], rtol=0, atol=1e-11)


@torch.no_grad()
def test_padding_gives_what_the_shorter_sequence_gives(stirred, valid):
    stack, x = stirred(Transformer(WIDTH, 3, HEADS, HIDDEN)), torch.randn(2, 5, WIDTH)
    (padded,) = stack(x, valid)
    (short,) = stack(x[1:, :3])
    torch.testing.assert_close(padded[1:, :3], short, rtol=0, atol=1e-12)
    x[1, 3:] = 1e3 * torch.randn(2, WIDTH)
    assert torch.equal(stack(x, valid)[0][1, :3], padded[1, :3])


def test_checkpointing_recomputes_and_changes_nothing(stirred, valid):
    stack, x = stirred(Transformer(WIDTH, 3, HEADS, HIDDEN)), torch.randn(2, 5, WIDTH)
    calls = []
    for block in stack:
        block.mlp.register_forward_pre_hook(lambda *_: calls.append(1))
    results = []
    for stack.is_checkpointed in (False, True):
        calls.clear()
        stack.zero_grad()
        outputs = stack(x, valid, 2)
        loss = sum(tokens.square().mean() for tokens in outputs)
        loss.backward()
        results.append((loss, [p.grad.clone() for p in stack.parameters()], len(calls)))
    (loss, gradients, plain_calls), (loss_again, gradients_again, checkpointed_calls) = results
    assert (plain_calls, checkpointed_calls) == (3, 6)
    assert torch.equal(loss, loss_again)
    assert all(torch.equal(a, b) for a, b in zip(gradients, gradients_again, strict=True))


def built(init):
    torch.manual_seed(1)
    stack = nn.Sequential(Transformer(64, 4, 4, 256), nn.Linear(64, 64))
    initialise(stack, init)
    return stack


def test_official_weights_all_have_the_same_spread():
    for name, parameter in built("official").named_parameters():
        if "norm" in name:
            assert (parameter == (1 if name.endswith("weight") else 0)).all()
        elif name.endswith("bias"):
            assert (parameter == 0).all()
        else:
            assert parameter.std().item() == pytest.approx(INIT_STD, rel=0.05), name
            assert abs(parameter.mean()) < INIT_STD / 10, name


def test_rescaled_divides_the_output_layers_by_sqrt_of_twice_their_number():
    official, rescaled = built("official").state_dict(), built("rescaled").state_dict()
    num_divided = 0
    for name, weight in official.items():
        if name.endswith(("attn.proj.weight", "mlp.fc2.weight")):
            block = int(name.split(".")[1])
            weight, num_divided = weight / math.sqrt(2 * (block + 1)), num_divided + 1
            assert rescaled[name].std().item() == pytest.approx(INIT_STD / math.sqrt(2 * (block + 1)), rel=0.05)
        assert torch.equal(rescaled[name], weight), name
    assert num_divided == 8


def test_a_block_is_what_torch_calls_a_pre_norm_encoder_layer(stirred, valid):
    ours, x = stirred(Block(WIDTH, HEADS, HIDDEN)), torch.randn(2, 5, WIDTH)
    theirs = nn.TransformerEncoderLayer(
        WIDTH, HEADS, HIDDEN, 0.0, "gelu", layer_norm_eps=1e-6, batch_first=True, norm_first=True
    )
    names = {
        "attn.qkv.": "self_attn.in_proj_",
        "attn.proj.": "self_attn.out_proj.",
        "mlp.fc1.": "linear1.",
        "mlp.fc2.": "linear2.",
    }
    state = ours.state_dict()
    for our_name, their_name in names.items():
        state = {name.replace(our_name, their_name): tensor for name, tensor in state.items()}
    theirs.load_state_dict(state)
    expected = theirs(x, src_key_padding_mask=~valid)
    torch.testing.assert_close(ours(x, valid[:, None, None]), expected, rtol=0, atol=1e-12)
