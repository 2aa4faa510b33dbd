"""Features of many images, and the controls beside them."""

from __future__ import annotations

import torch

from openjepa.vision.controls import CHUNK, pixels, pooled
from openjepa.vision.vit import ViT, ViTConfig

CONFIG = ViTConfig((8, 8), 4, width=8, depth=2, heads=2)


def test_chunks_put_together_are_one_pass():
    encoder = ViT(CONFIG).double()
    images = torch.randint(0, 256, (2 * CHUNK + 3, 3, 8, 8), dtype=torch.uint8)
    features = pooled(encoder, images, num_layers=2)
    assert features.dtype == torch.float32
    assert not features.requires_grad
    torch.testing.assert_close(features, encoder(images, 2).pooled.float())


def test_pixels_are_shares_of_full_brightness_and_large_images_shrink():
    images = torch.randint(0, 256, (2, 3, 12, 16), dtype=torch.uint8)
    assert pixels(images).tolist() == (images.flatten(1).float() / 255).tolist()
    assert pixels(torch.full((2, 1, 64, 48), 255, dtype=torch.uint8)).shape == (2, 16 * 16)
    # left half black, right half white, shrunk to half the size
    halves = torch.cat([torch.zeros(1, 1, 32, 16), torch.full((1, 1, 32, 16), 255)], 3).byte()
    shrunk = pixels(halves).reshape(16, 16)
    torch.testing.assert_close(shrunk[:, :6], torch.zeros(16, 6))
    torch.testing.assert_close(shrunk[:, 10:], torch.ones(16, 6))


def test_an_untrained_encoder_belongs_to_its_seed_and_disturbs_nothing():
    vit = ViT(CONFIG)
    torch.manual_seed(5)
    undisturbed = torch.rand(3)
    torch.manual_seed(5)
    encoders = [vit.untrained(seed) for seed in (1, 1, 2)]
    assert torch.equal(torch.rand(3), undisturbed)
    first, same, other = (encoder.embed.weight for encoder in encoders)
    assert torch.equal(first, same)
    assert not torch.equal(first, other)
    assert not first.requires_grad
    assert not encoders[0].training
