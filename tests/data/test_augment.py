"""Colour and blur: each operation against a plain one, chances, one channel, and the same from the same generator."""

from __future__ import annotations

import colorsys
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from openjepa.data.augment import Augment, turned
from openjepa.errors import ConfigError

NOTHING = Augment(jitter=0.0, grey=0.0, blur=0.0, solarise=0.0)
LUMA = np.array([299, 587, 114]) / 1000  # Pillow's


def image(channels: int = 3, size: tuple[int, int] = (12, 10), seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (channels, *size), dtype=np.uint8)


def luminance(pixels: np.ndarray) -> np.ndarray:
    return np.tensordot(LUMA, pixels.astype(float), 1)


def only(name: str, strength: float) -> Augment:
    """A jitter of one kind."""
    zero = dict.fromkeys(("brightness", "contrast", "saturation", "hue"), 0.0)
    return replace(NOTHING, jitter=1.0, **{**zero, name: strength})


def close(one: np.ndarray, other: np.ndarray, steps: float) -> None:
    np.testing.assert_allclose(one.astype(float), other.astype(float), rtol=0, atol=steps)


def factor(seed: int, which: int, strength: float) -> float:
    """What the first change of a jitter is, drawn as it is drawn."""
    rng = np.random.default_rng(seed)
    rng.random()
    strengths = np.zeros(4)
    strengths[which] = strength
    return float(rng.uniform(-strengths, strengths)[which])


@pytest.mark.parametrize("seed", range(5))
def test_brightness_contrast_and_saturation_blend(seed: int) -> None:
    before = image(seed=seed)
    grounds = {
        "brightness": np.zeros_like(before, float),
        "contrast": np.full_like(before, round(luminance(before).mean()), float),
        "saturation": np.broadcast_to(luminance(before), before.shape),
    }
    for which, (name, ground) in enumerate(grounds.items()):
        f = 1 + factor(seed, which, 0.4)
        expected = (ground + f * (before - ground)).clip(0, 255)
        close(only(name, 0.4)(before, np.random.default_rng(seed)), expected, 2.0)


@pytest.mark.parametrize("share", [0.0, 0.1, -0.1, 0.5])
def test_hue_turns_and_saturation_and_value_stay(share: float) -> None:
    before = image(size=(6, 6))
    after = np.asarray(turned(Image.fromarray(before.transpose(1, 2, 0)), share)).transpose(2, 0, 1)
    for pixel, changed in zip(before.reshape(3, -1).T / 255, after.reshape(3, -1).T / 255, strict=True):
        h, s, v = colorsys.rgb_to_hsv(*pixel)
        expected = colorsys.hsv_to_rgb((h + share) % 1, s, v)
        np.testing.assert_allclose(changed, expected, atol=0.045)  # hue has 256 steps, a sixth of them a full ramp


def test_grey_is_luminance() -> None:
    after = replace(NOTHING, grey=1.0)(image(), np.random.default_rng(0))
    assert (after[0] == after[1]).all()
    assert (after[0] == after[2]).all()
    close(after[0], luminance(image()), 1.0)


def test_solarise_inverts_the_bright() -> None:
    before = image()
    after = replace(NOTHING, solarise=1.0)(before, np.random.default_rng(0))
    assert (after == np.where(before < 128, before, 255 - before)).all()


def test_blur_keeps_the_mean_and_takes_the_rest() -> None:
    before = image(size=(64, 64))
    spreads = []
    for radius in (0.1, 1.0, 2.0):
        after = replace(NOTHING, blur=1.0, blur_radius=(radius, radius))(before, np.random.default_rng(0))
        assert abs(after.mean() - before.mean()) < 2
        spreads.append(after.std())
    assert spreads[0] > 2 * spreads[1] > 3 * spreads[2]


@pytest.mark.parametrize("name", ["jitter", "grey", "blur", "solarise"])
def test_it_happens_as_often_as_asked(name: str) -> None:
    before, rng = image(), np.random.default_rng(0)
    augment = replace(NOTHING, blur_radius=(2.0, 2.0), **{name: 0.3})
    happened = [not np.array_equal(augment(before, rng), before) for _ in range(1000)]
    assert abs(np.mean(happened) - 0.3) < 4 * 0.46 / 1000**0.5
    always = replace(augment, **{name: 1.0})
    assert not any(np.array_equal(always(before, rng), before) for _ in range(50))


def test_the_order_of_the_jitter_is_random() -> None:
    before = image()
    strong = Augment(jitter=1.0, brightness=1.0, contrast=1.0, saturation=1.0, hue=0.0, grey=0.0, blur=0.0)

    class Fixed:
        """A generator of the same strengths, in an order that is given."""

        def __init__(self, order: list[int]) -> None:
            self.order = order

        def random(self) -> float:
            return 0.5

        def uniform(self, low: np.ndarray, high: np.ndarray) -> np.ndarray:
            return 0.8 * high

        def permutation(self, count: int) -> list[int]:
            return self.order

    one, other = strong(before, Fixed([0, 1, 2, 3])), strong(before, Fixed([2, 1, 0, 3]))  # type: ignore[arg-type]
    assert not np.array_equal(one, other)


@pytest.mark.parametrize("channels", [1, 3])
def test_the_same_from_the_same_generator_and_the_input_as_it_was(channels: int) -> None:
    augment, before = Augment(blur=0.5, solarise=0.5), image(channels)
    kept = before.copy()
    for seed in range(20):
        one, other = (augment(before, np.random.default_rng(seed)) for _ in range(2))
        assert np.array_equal(one, other)
        assert (one.shape, one.dtype) == (before.shape, np.uint8)
        assert one.flags.writeable
        assert one.flags.c_contiguous
    assert np.array_equal(before, kept)


@pytest.mark.parametrize("augment", [only("hue", 0.5), only("saturation", 1.0), replace(NOTHING, grey=1.0)])
def test_colour_of_one_channel_stays(augment: Augment) -> None:
    for seed in range(10):
        assert np.array_equal(augment(image(1), np.random.default_rng(seed)), image(1))


def test_light_of_one_channel_changes() -> None:
    for augment in (only("brightness", 0.4), only("contrast", 0.4), replace(NOTHING, solarise=1.0)):
        assert not np.array_equal(augment(image(1), np.random.default_rng(1)), image(1))


@pytest.mark.parametrize("channels", [2, 4, 7])
def test_other_channels_are_refused_unless_nothing_is_to_happen(channels: int) -> None:
    assert NOTHING(image(channels), np.random.default_rng(0)) is not None
    assert NOTHING.mistakes("view", channels) == []
    with pytest.raises(ConfigError, match="1 or 3 channels"):
        Augment()(image(channels), np.random.default_rng(0))
    (mistake,) = Augment().mistakes("view", channels)
    assert mistake.startswith(f"channels = {channels}: view works on 1 or 3 channels")


def test_mistakes_are_named() -> None:
    wrong = Augment(jitter=2.0, solarise=-1.0, hue=0.7, blur_radius=(2.0, 1.0)).mistakes("local_view", 3)
    assert [mistake.split(" = ")[0] for mistake in wrong] == [
        "local_view.jitter", "local_view.solarise", "local_view.hue", "local_view.blur_radius",
    ]  # fmt: skip
    assert Augment().mistakes("view", 1) == Augment().mistakes("view", 3) == []
