"""What evaluation sees of any encoder."""

from __future__ import annotations

import pytest
import torch

from openjepa.errors import ConfigError
from openjepa.vision.encoder import Encoder, Features


class MeanColour(Encoder):
    """Two patches, left and right half; layer l repeats their mean colour l times over."""

    def __init__(self, mean, std):
        super().__init__(mean, std)
        self.image_size, self.channels, self.width, self.depth = (2, 2), len(mean), len(mean), 3

    def features(self, images, num_layers):
        tokens = images.mean(2).transpose(1, 2)
        return Features(tuple(tokens * layer for layer in range(1, self.depth + 1))[-num_layers:], (1, 2))


def test_bytes_and_floats_are_normalised_alike_channel_by_channel():
    mean, std = (0.1, 0.2, 0.3, 0.4), (0.5, 1.0, 2.0, 4.0)
    encoder = MeanColour(mean, std).double()
    images = torch.randint(0, 256, (3, 4, 2, 2), dtype=torch.uint8)
    normalised = encoder.normalise(images)
    assert normalised.dtype == torch.float64
    for image, channel, row, column in torch.cartesian_prod(*map(torch.arange, images.shape)).tolist():
        expected = (images[image, channel, row, column].item() / 255 - encoder.mean[0, channel, 0, 0].item()) / std[
            channel
        ]
        assert normalised[image, channel, row, column].item() == pytest.approx(expected, abs=1e-12)
    assert torch.equal(encoder.normalise(images.double() / 255), normalised)


def test_layers_and_pooling():
    encoder = MeanColour((0.0,), (1.0,))
    images = torch.tensor([[[[0.1, 0.3], [0.2, 0.4]]]])
    features = encoder(images, num_layers=2)
    assert len(features.layers) == 2
    torch.testing.assert_close(features.tokens, 3 * torch.tensor([[[0.15], [0.35]]]))
    torch.testing.assert_close(features.pooled, torch.tensor([[2 * 0.25, 3 * 0.25]]))
    assert torch.equal(encoder(images).pooled, features.pooled[:, 1:])


def test_preprocessing_is_configuration_and_not_in_the_state():
    assert MeanColour((0.0,), (1.0,)).state_dict() == {}


def test_what_does_not_fit_is_refused():
    encoder = MeanColour((0.5,), (1.0,))
    for num_layers in (0, 4):
        with pytest.raises(ConfigError, match=f"num_layers = {num_layers}: must be between 1 and 3"):
            encoder(torch.zeros(1, 1, 2, 2), num_layers)
    for shape in ((1, 3, 2, 2), (1, 2, 2)):
        with pytest.raises(ConfigError, match=r"images\.shape = .*\(batch, 1, height, width\)"):
            encoder(torch.zeros(shape))
    with pytest.raises(ConfigError, match=r"images\.dtype = torch\.int64: .*uint8"):
        encoder(torch.full((1, 1, 2, 2), 255))
