"""The encoder, against a convolution with the layers that torch ships, and one image at a time."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from torch import nn

from openjepa.errors import ConfigError
from openjepa.vision.transformer import INIT_STD
from openjepa.vision.vit import SIZES, ViT, ViTConfig, take, vit

PATCH = 4
TINY = ViTConfig((16, 24), PATCH, width=16, depth=3, heads=2)


@pytest.fixture
def model(float64, stirred):
    return stirred(ViT(TINY))


def slow_patches(images, size):
    out = []
    for image in images:
        rows, columns = image.shape[1] // size, image.shape[2] // size
        out.append([])
        for row in range(rows):
            for column in range(columns):
                patch = image[:, row * size : (row + 1) * size, column * size : (column + 1) * size]
                out[-1].append([value for plane in patch.tolist() for line in plane for value in line])
    return torch.tensor(out)


@pytest.mark.parametrize(("channels", "height", "width"), [(1, 8, 8), (3, 8, 12), (5, 12, 4)])
def test_patches_are_cut_row_by_row_channel_first(float64, channels, height, width):
    config = ViTConfig((8, 8), PATCH, 16, 1, 2, mean=(0.5,) * channels, std=(1.0,) * channels)
    images = torch.randn(2, channels, height, width)
    assert torch.equal(ViT(config).patches(images), slow_patches(images, PATCH))


def slow_encode(model, images):
    """Tokens after every block and the final norm, by torch's own convolution and encoder layers."""
    config = model.config
    weight = model.embed.weight.reshape(config.width, config.channels, config.patch, config.patch)
    x = nn.functional.conv2d(images, weight, model.embed.bias, stride=config.patch)
    grid = (x.shape[2], x.shape[3])
    x = x.flatten(2).transpose(1, 2) + model.positions(grid)
    outputs = []
    for block in model.blocks:
        layer = nn.TransformerEncoderLayer(
            config.width, config.heads, block.mlp.fc1.out_features, 0.0, "gelu", 1e-6, batch_first=True, norm_first=True
        )
        attention, ours = layer.self_attn, block.attn
        attention.in_proj_weight, attention.in_proj_bias = ours.qkv.weight, ours.qkv.bias
        attention.out_proj.weight, attention.out_proj.bias = ours.proj.weight, ours.proj.bias
        layer.linear1, layer.linear2 = block.mlp.fc1, block.mlp.fc2
        layer.norm1, layer.norm2 = block.norm1, block.norm2
        x = layer(x)
        outputs.append(nn.functional.layer_norm(x, (config.width,), model.norm.weight, model.norm.bias, 1e-6))
    return outputs


@pytest.mark.parametrize("channels", [1, 3, 5])
@pytest.mark.parametrize("size", [(16, 24), (8, 8), (20, 36)])
def test_the_whole_encoder(float64, stirred, channels, size):
    config = ViTConfig((16, 24), PATCH, 16, 3, 2, 3.0, mean=(0.4,) * channels, std=(0.5,) * channels)
    model = stirred(ViT(config))
    images = torch.rand(2, channels, *size)
    expected = slow_encode(model, (images - 0.4) / 0.5)
    features = model(images, num_layers=2)
    assert features.grid == (size[0] // PATCH, size[1] // PATCH)
    torch.testing.assert_close(list(features.layers), expected[-2:], rtol=0, atol=1e-11)


def test_positions_of_another_size_keep_the_field_of_view(model):
    assert model.positions((4, 6)).shape == (24, 16)
    twice = model.positions((8, 12)).reshape(4, 2, 6, 2, 16)
    once = model.positions((4, 6)).reshape(4, 6, 16)
    # the finest frequency turns by half a radian between neighbours: compare the slowest
    torch.testing.assert_close(twice.mean((1, 3))[..., 3], once[..., 3], rtol=0, atol=1e-6)
    assert not torch.allclose(model.positions((3, 6)), model.positions((4, 6))[:18])


@torch.no_grad()
def test_kept_patches_are_those_tokens_alone(model):
    images = torch.randn(2, 3, 16, 24)
    keep = torch.stack([torch.randperm(24)[:7] for _ in range(2)])
    tokens = model.embed(model.patches(images)) + model.positions((4, 6))
    tokens = torch.stack([torch.stack([tokens[b, i] for i in keep[b]]) for b in range(2)])
    expected = [model.norm(x) for x in model.blocks(tokens, num_last=2)]
    torch.testing.assert_close(model.encode(images, keep, num_layers=2), expected, rtol=0, atol=1e-12)


@torch.no_grad()
def test_rows_of_several_draws_belong_to_adjacent_images(model):
    images = torch.randn(2, 3, 16, 24)
    keep = torch.stack([torch.randperm(24)[:5] for _ in range(6)])
    (together,) = model.encode(images, keep)
    for row in range(6):
        (alone,) = model.encode(images[row // 3 : row // 3 + 1], keep[row : row + 1])
        torch.testing.assert_close(together[row], alone[0], rtol=0, atol=1e-12)


@torch.no_grad()
def test_padding_is_not_there(model):
    images = torch.randn(2, 3, 16, 24)
    keep = torch.tensor([[3, 9, 20, 23], [5, 7, 0, 0]])
    valid = torch.tensor([[True] * 4, [True, True, False, False]])
    (padded,) = model.encode(images, keep, valid)
    (full,) = model.encode(images[:1], keep[:1])
    (short,) = model.encode(images[1:], keep[1:, :2])
    torch.testing.assert_close(padded[0], full[0], rtol=0, atol=1e-12)
    torch.testing.assert_close(padded[1, :2], short[0], rtol=0, atol=1e-12)


@torch.no_grad()
def test_patches_left_out_are_not_seen(model):
    images = torch.randn(1, 3, 16, 24)
    keep = torch.tensor([[0, 1, 6]])
    (before,) = model.encode(images, keep)
    images[:, :, 8:] = 1e6
    assert torch.equal(model.encode(images, keep)[0], before)


def test_take_reads_each_row_from_its_image():
    x, index = torch.randn(2, 5, 3), torch.randint(5, (6, 4))
    expected = torch.stack([torch.stack([x[row // 3, i] for i in index[row]]) for row in range(6)])
    assert torch.equal(take(x, index), expected)


def test_positions_met_in_inference_do_not_spoil_training(model):
    images = torch.randn(1, 3, 28, 44)  # a size that no other test caches
    with torch.inference_mode():
        model.encode(images)
    model.encode(images)[0].sum().backward()
    assert model.embed.weight.grad.abs().sum() > 0


def millions(module):
    return sum(parameter.numel() for parameter in module.parameters()) / 1e6


@pytest.mark.parametrize(
    ("size", "patch", "expected", "places"),
    [
        ("tiny", 16, 5.49, 2),
        ("small", 16, 21.59, 2),
        ("base", 16, 85.65, 2),
        ("large", 16, 303.1, 1),
        ("huge", 14, 630.4, 1),  # the size of the released H/14; 16-pixel patches have 630.7
        ("giant", 16, 1011.1, 1),
    ],
)
def test_sizes_have_the_released_number_of_parameters(size, patch, expected, places):
    with torch.device("meta"):
        assert round(millions(ViT(vit(size, patch=patch))), places) == expected


def test_the_configured_initialisation_is_used():
    stds = {}
    for init in ("rescaled", "official"):
        model = ViT(ViTConfig((16, 16), PATCH, 64, 3, 4, init=init))
        stds[init] = model.blocks[2].mlp.fc2.weight.std().item()
        assert model.embed.weight.std().item() == pytest.approx(INIT_STD, rel=0.05)
    assert stds["official"] == pytest.approx(INIT_STD, rel=0.05)
    assert stds["rescaled"] == pytest.approx(INIT_STD / math.sqrt(6), rel=0.05)


def test_named_sizes_fit_and_unknown_ones_name_the_nearest():
    assert vit("huge", patch=14).grid == (16, 16)
    assert vit("pico", image_size=(32, 64), patch=4).grid == (8, 16)
    assert [vit(size).mistakes() for size in SIZES] == [[]] * len(SIZES)
    with pytest.raises(ConfigError, match=r"encoder size = 'hug': unknown\. Did you mean 'huge'"):
        vit("hug")


def test_all_mistakes_are_told_at_once_by_field():
    config = ViTConfig((30, 32), 4, width=18, heads=4, mlp_ratio=0.0, mean=(0.5,), std=(0.0, 1.0))
    wrong = config.mistakes()
    fields = ["image_size", "width", "width", "mlp_ratio", "std", "std"]
    assert [mistake.split(" = ")[0] for mistake in wrong] == [f"encoder.{field}" for field in fields]
    assert "Try 32 for 30" in wrong[0]
    with pytest.raises(ConfigError) as caught:
        ViT(config)
    assert caught.value.mistakes == wrong
    nothing = ViTConfig(patch=0, width=0, depth=0, heads=0).mistakes()
    assert [mistake.split(" = ")[0] for mistake in nothing] == [
        f"encoder.{field}" for field in ("patch", "width", "depth", "heads")
    ]
    assert any("encoder.image_size" in mistake for mistake in ViTConfig((0, 16)).mistakes())
    assert any("encoder.std" in mistake for mistake in ViTConfig(mean=(), std=()).mistakes())


def test_images_that_do_not_fit_are_refused(model):
    with pytest.raises(ConfigError, match=r"images\.shape = \(1, 1, 16, 24\): .*\(batch, 3, height, width\)"):
        model(torch.zeros(1, 1, 16, 24))
    with pytest.raises(ConfigError, match=r"images\.shape = \(1, 3, 16, 22\): .*multiples of the patch, 4"):
        model(torch.zeros(1, 3, 16, 22))


def test_a_class_token_stands_in_front_and_may_stand_for_the_image():
    config = ViTConfig(image_size=(16, 16), patch=4, width=16, depth=2, heads=2, has_cls=True)
    encoder = ViT(config).untrained(0)
    images = torch.randint(0, 256, (3, 3, 16, 16), dtype=torch.uint8)
    by_mean, by_cls = encoder(images, 2), encoder.pooled_by("cls")(images, 2)
    inside = encoder.encode(encoder.normalise(images), num_layers=2)
    for layer, tokens in enumerate(inside):
        assert tokens.shape == (3, 17, 16)
        assert torch.equal(by_mean.layers[layer], tokens[:, 1:])
        assert torch.equal(by_mean.pooled.unflatten(1, (2, 16))[:, layer], tokens[:, 1:].mean(1))
        assert torch.equal(by_cls.pooled.unflatten(1, (2, 16))[:, layer], tokens[:, 0])
    assert encoder.pooled_by("cls").pooling != encoder.pooling
    assert encoder.pooled_by("cls").fingerprint() != encoder.fingerprint()
    with pytest.raises(ConfigError, match="class token"):
        ViT(replace(config, has_cls=False)).pooled_by("cls")


def test_hidden_patches_are_the_token_in_their_place():
    encoder = ViT(ViTConfig(image_size=(16, 16), patch=4, width=16, depth=1, heads=2)).untrained(0)
    images = encoder.normalise(torch.randint(0, 256, (2, 3, 16, 16), dtype=torch.uint8))
    hidden = torch.zeros(2, 16, dtype=torch.bool)
    hidden[:, 5] = True
    token = torch.randn(16)
    (found,) = encoder.encode(images, hidden=(hidden, token))
    other = images.clone()
    other[:, :, 4:8, 4:8] = 7.0  # patch 5 of a 4 x 4 grid
    assert torch.equal(found, encoder.encode(other, hidden=(hidden, token))[0])
    assert not torch.equal(found, encoder.encode(images)[0])
