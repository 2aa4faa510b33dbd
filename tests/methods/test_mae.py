"""MAE, against transformers' and against one patch at a time, in float64."""

from __future__ import annotations

import pickle
from dataclasses import replace

import numpy as np
import pytest
import torch

from openjepa.config import from_dict, to_dict
from openjepa.data.views import Crop
from openjepa.errors import ConfigError
from openjepa.masking import MultiBlock, Official, Random, Rasterized, SingleBlock
from openjepa.methods import MAE, MAEConfig
from openjepa.methods.mae import DecoderConfig
from openjepa.vision.positions import sincos
from openjepa.vision.vit import ViTConfig

PATCH, GRID, CHANNELS, NUM_IMAGES = 8, 4, 3, 3
ENCODER = ViTConfig((GRID * PATCH, GRID * PATCH), PATCH, width=32, depth=2, heads=2, init="xavier", has_cls=True)
TINY = MAEConfig(encoder=ENCODER, decoder=DecoderConfig(width=16, depth=2, heads=4))
MASKINGS = [Random(scale=0.75), MultiBlock(context="all", min_context=2), Official(), Rasterized(), SingleBlock()]
pytestmark = pytest.mark.usefixtures("float64")


def images_of(config, count=NUM_IMAGES):
    rng = np.random.default_rng(0)
    return list(rng.integers(0, 256, (count, config.encoder.channels, *config.encoder.image_size), dtype=np.uint8))


def made(config, stir, count=NUM_IMAGES):
    method = stir(MAE(config))
    return method, method.views.collate(images_of(config, count), seed=1, step=2, first=0)


# ------------------------------------------------------------------------------------- against transformers


def in_their_layout(ours):
    """Parameters of ours, or their gradients, by the names that transformers gives them.

    Their patches are flattened (row, column, channel), ours (channel, row, column).
    """
    out_weight = ours["decoder.proj.weight"].reshape(CHANNELS, PATCH, PATCH, -1)
    theirs = {
        "vit.embeddings.cls_token": ours["student.cls_token"][None, None],
        "vit.embeddings.patch_embeddings.projection.weight": ours["student.embed.weight"].reshape(
            -1, CHANNELS, PATCH, PATCH
        ),
        "vit.embeddings.patch_embeddings.projection.bias": ours["student.embed.bias"],
        "decoder.mask_token": ours["decoder.mask_token"][None, None],
        "decoder.decoder_pred.weight": out_weight.permute(1, 2, 0, 3).flatten(0, 2),
        "decoder.decoder_pred.bias": ours["decoder.proj.bias"].reshape(CHANNELS, -1).T.flatten(),
    }
    pairs = {"vit.layernorm": "student.norm", "decoder.decoder_norm": "decoder.norm"}
    pairs["decoder.decoder_embed"] = "decoder.embed"
    for there, here in (("vit.layers", "student.blocks"), ("decoder.decoder_layers", "decoder.blocks")):
        for i in range(2):
            names = {"attention.o_proj": "attn.proj", "mlp.fc1": "mlp.fc1", "mlp.fc2": "mlp.fc2"}
            names |= {"layernorm_before": "norm1", "layernorm_after": "norm2"}
            pairs |= {f"{there}.{i}.{a}": f"{here}.{i}.{b}" for a, b in names.items()}
            for kind in ("weight", "bias"):
                for part, tensor in zip("qkv", ours[f"{here}.{i}.attn.qkv.{kind}"].chunk(3), strict=True):
                    theirs[f"{there}.{i}.attention.{part}_proj.{kind}"] = tensor
    return theirs | {f"{a}.{kind}": ours[f"{b}.{kind}"] for a, b in pairs.items() for kind in ("weight", "bias")}


def their_model(method):
    """transformers' model with our weights; its position tables are ours to the rounding of float32."""
    transformers = pytest.importorskip("transformers", minversion="5.24")  # parameters had other names before
    encoder, decoder = method.config.encoder, method.config.decoder
    model = transformers.ViTMAEForPreTraining(
        transformers.ViTMAEConfig(
            image_size=GRID * PATCH, patch_size=PATCH, num_channels=CHANNELS, layer_norm_eps=1e-6,
            hidden_size=encoder.width, num_hidden_layers=encoder.depth, num_attention_heads=encoder.heads,
            intermediate_size=4 * encoder.width, decoder_hidden_size=decoder.width,
            decoder_num_hidden_layers=decoder.depth, decoder_num_attention_heads=decoder.heads,
            decoder_intermediate_size=4 * decoder.width, mask_ratio=0.75,
            norm_pix_loss=method.config.norm_pixels, attn_implementation="sdpa",  # "eager" has a softmax of float32
        )
    ).double()  # fmt: skip
    # a fresh model of 5.24 has tables of zeros: what makes them finds the layer beside them already initialised
    model.vit.embeddings.patch_embeddings.projection._is_hf_initialized = False
    with torch.no_grad():
        model.vit.embeddings.initialize_weights()
        model.decoder.initialize_weights(GRID**2)
        for name, tensor in in_their_layout(dict(method.named_parameters())).items():
            model.get_parameter(name).copy_(tensor)
        for name, width in (("vit.embeddings.position_embeddings", encoder.width), ("decoder.decoder_pos_embed", 16)):
            table, ours = model.get_parameter(name)[0], sincos(width, (GRID, GRID)).double()
            assert not table[0].any()  # the class token has no place
            torch.testing.assert_close(table[1:], ours, rtol=0, atol=1e-7)
            table[1:] = ours
    return model


@pytest.mark.parametrize("norm_pixels", [True, False])
def test_loss_and_gradients_are_those_of_transformers(stirred, norm_pixels):
    method, batch = made(replace(TINY, norm_pixels=norm_pixels), stirred)
    model, masks = their_model(method), batch.masks
    num_context, num_targets = masks.context.shape[1], masks.targets.shape[2]
    assert (num_context, num_targets) == (4, 12)
    noise = torch.zeros(NUM_IMAGES, GRID**2)  # what is lowest is kept
    noise.scatter_(1, masks.context, torch.arange(num_context).double().expand(NUM_IMAGES, -1))
    later = num_context + torch.arange(num_targets).double()
    noise.scatter_(1, masks.targets[:, 0], later.expand(NUM_IMAGES, -1))

    theirs = model(method.student.normalise(batch.images), noise=noise)
    assert torch.equal(theirs.mask.nonzero()[:, 1].reshape(NUM_IMAGES, -1), masks.targets[:, 0])
    ours = method(batch, 0.5)["loss"]
    assert ours.item() == pytest.approx(theirs.loss.item(), rel=1e-12)

    theirs.loss.backward()
    ours.backward()
    expected = {name: p.grad for name, p in model.named_parameters() if p.requires_grad}
    found = in_their_layout({name: p.grad for name, p in method.named_parameters()})
    assert found.keys() == expected.keys()
    for name, gradient in found.items():
        assert name.endswith("k_proj.bias") or gradient.abs().max() > 1e-8, name  # softmax does not see that one
        torch.testing.assert_close(gradient, expected[name], rtol=1e-10, atol=1e-12, msg=name)


# ------------------------------------------------------------------------------------- one patch at a time


def slow_target(image, index, norm_pixels):
    """The pixels of a patch of normalised (C, H, W), as a list: channel, row, column."""
    y, x = PATCH * (index // GRID), PATCH * (index % GRID)
    values = [image[c, y + i, x + j].item() for c in range(len(image)) for i in range(PATCH) for j in range(PATCH)]
    if not norm_pixels:
        return values
    mean = sum(values) / len(values)
    variance = sum((value - mean) ** 2 for value in values) / (len(values) - 1)
    return [(value - mean) / (variance + 1e-6) ** 0.5 for value in values]


@torch.no_grad()
def slow_energies(method, batch, target_images):
    """(B, M) floats: mean over a block's patches of the mean over pixels of the squared error."""
    masks, config, energies = batch.masks, method.config, []
    for row, pixels in enumerate(batch.images):
        image, other = (
            (x.double() / 255 - method.student.mean[0]) / method.student.std[0] for x in (pixels, target_images[row])
        )
        valid = slice(None) if masks.context_valid is None else masks.context_valid[row]
        context = masks.context[row][valid]
        (tokens,) = method.student.encode(image[None], context[None])
        energies.append([])
        for block, index in enumerate(masks.targets[row]):
            valid = slice(None) if masks.target_valid is None else masks.target_valid[row, block]
            index = index[valid]
            predictions = method.decoder(tokens, context[None], index[None, None])[0, 0]
            errors = []
            for prediction, patch in zip(predictions.tolist(), index.tolist(), strict=True):
                target = slow_target(other, patch, config.norm_pixels)
                squares = [(p - y) ** 2 for p, y in zip(prediction, target, strict=True)]
                errors.append(sum(squares) / len(squares))
            energies[-1].append(sum(errors) / len(errors))
    return torch.tensor(energies)


@pytest.mark.parametrize("masking", MASKINGS, ids=lambda masking: type(masking).__name__)
@pytest.mark.parametrize("norm_pixels", [True, False])
@pytest.mark.parametrize("has_cls", [True, False])
def test_the_loss_is_the_mean_error_of_hidden_patches(stirred, has_cls, norm_pixels, masking):
    config = replace(TINY, encoder=replace(ENCODER, has_cls=has_cls), norm_pixels=norm_pixels, masking=masking)
    method, batch = made(config, stirred)
    expected = slow_energies(method, batch, batch.images)
    assert expected.shape == batch.masks.targets.shape[:2]
    outputs = method(batch, 0.5)
    assert outputs["loss"].item() == pytest.approx(expected.mean().item(), rel=1e-10)
    assert outputs["energy"] == outputs["loss"]
    torch.testing.assert_close(method.energy(batch), expected, rtol=1e-10, atol=0)
    others = batch.images.roll(1, 0)
    crossed = method.energy(batch, others)
    torch.testing.assert_close(crossed, slow_energies(method, batch, others), rtol=1e-10, atol=0)
    assert not torch.isclose(crossed, expected).any()


# ------------------------------------------------------------------------------------- what it is for


def is_hidden(batch):
    """(B, C, H, W) bool: True for pixels of patches that are not in the context."""
    hidden = torch.ones(len(batch.images), GRID**2, dtype=torch.bool).scatter(1, batch.masks.context, False)
    hidden = hidden.reshape(-1, 1, GRID, 1, GRID, 1).expand(-1, CHANNELS, -1, PATCH, -1, PATCH)
    return hidden.reshape(batch.images.shape)


@pytest.mark.parametrize("norm_pixels", [True, False])
def test_predictions_rest_on_visible_pixels_and_targets_on_hidden_ones(stirred, norm_pixels):
    method, batch = made(replace(TINY, norm_pixels=norm_pixels), stirred)
    images, hidden = method.student.normalise(batch.images).requires_grad_(), is_hidden(batch)
    predictions, targets = method.predict(images, batch), method.targets(images, batch)
    (reach,) = torch.autograd.grad((predictions * torch.randn_like(predictions)).sum(), images)
    assert not reach[hidden].any()
    assert reach[~hidden].all()
    (reach,) = torch.autograd.grad((targets * torch.randn_like(targets)).sum(), images)
    assert reach[hidden].all()
    assert not reach[~hidden].any()
    noise = torch.randint(0, 256, batch.images.shape, dtype=torch.uint8)
    other = replace(batch, images=torch.where(hidden, noise, batch.images))
    assert torch.equal(method.predict(method.student.normalise(other.images), other), predictions)


def test_one_batch_is_learned_by_heart_and_its_pairs_are_told_apart():
    method = MAE(replace(TINY, encoder=replace(ENCODER, has_cls=False)))
    coarse = torch.rand(4, CHANNELS, 5, 5)
    smooth = torch.nn.functional.interpolate(coarse, (GRID * PATCH, GRID * PATCH), mode="bicubic").clamp(0, 1)
    batch = method.views.collate(list((255 * smooth).byte().numpy()), seed=0, step=0, first=0)
    optimizer = torch.optim.Adam(method.parameters(), lr=3e-3)
    losses = []
    for _ in range(120):
        loss = method(batch, 0.5)["loss"]
        losses.append(loss.item())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert losses[0] > 0.9  # a fresh model says next to nothing of a target of variance 1
    assert losses[-1] < 0.2
    assert (method.energy(batch) < 0.2 * method.energy(batch, batch.images.roll(1, 0))).all()


def test_a_patch_of_one_colour_is_a_target_of_zeros(stirred):
    method, batch = made(TINY, stirred)
    grey = replace(batch, images=torch.full_like(batch.images, 90))
    encoder = replace(ENCODER, mean=(0.5,) * 3, std=(0.2,) * 3)
    plain = stirred(MAE(replace(TINY, encoder=encoder)))
    assert plain.targets(plain.student.normalise(grey.images), grey).abs().max() < 1e-9
    method(grey, 0.5)["loss"].backward()
    assert all(torch.isfinite(parameter.grad).all() for parameter in method.parameters())


@pytest.mark.parametrize(("has_cls", "pooling"), [(False, "mean"), (True, "mean"), (True, "cls")])
def test_representations(stirred, has_cls, pooling):
    config = replace(TINY, encoder=replace(ENCODER, has_cls=has_cls, pooling=pooling))
    method, batch = made(config, stirred)
    pooled = method.representations(batch)
    assert set(pooled) == {"context", "target", "prediction"}
    assert torch.equal(pooled["context"], pooled["target"])
    images = method.student.normalise(batch.images)
    for i in range(NUM_IMAGES):
        tokens = method.student.encode(images[i : i + 1])[0][0]
        patches = tokens[1:] if has_cls else tokens
        expected = tokens[0] if pooling == "cls" else sum(patches) / len(patches)
        torch.testing.assert_close(pooled["context"][i], expected, rtol=0, atol=1e-12)
        index = slice(i, i + 1)
        context, targets = batch.masks.context[index], batch.masks.targets[index]
        (seen,) = method.student.encode(images[index], context)
        patches = method.decoder(seen, context, targets)[0, 0]
        torch.testing.assert_close(pooled["prediction"][i], sum(patches) / len(patches), rtol=0, atol=1e-12)


def test_there_is_one_encoder_and_evaluation_does_not_see_the_decoder():
    method = MAE(TINY)
    assert method.encoder is method.context_encoder is method.student
    assert {name.split(".")[0] for name in method.state_dict()} == {"student", "decoder"}
    assert not any("decoder" in name for name in method.encoder.state_dict())
    before = {name: tensor.clone() for name, tensor in method.state_dict().items()}
    method.after_step(0.5)
    assert all(torch.equal(tensor, before[name]) for name, tensor in method.state_dict().items())


def test_views_crop_flip_and_hide_three_patches_in_four():
    config = replace(TINY, crop=Crop(scale=(1.0, 1.0), aspect=(1.0, 1.0), flip=True))
    views = pickle.loads(pickle.dumps(MAE(config).views))
    image = np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8)
    samples = [views.sample(image, np.random.default_rng(i), None) for i in range(20)]
    straight = [np.array_equal(sample, image.transpose(2, 0, 1)) for sample in samples]
    mirrored = [np.array_equal(sample, image.transpose(2, 0, 1)[:, :, ::-1]) for sample in samples]
    assert any(straight)
    assert any(mirrored)
    assert all(a != b for a, b in zip(straight, mirrored, strict=True))
    masks = views.collate(samples, seed=7, step=5, first=3).masks
    expected = Random(scale=0.75).sample((GRID, GRID), seed=7, step=5, first=3, count=20)
    assert torch.equal(masks.context, expected.context)
    assert torch.equal(masks.targets, expected.targets)
    assert (masks.context.shape, masks.targets.shape) == ((20, 4), (20, 1, 12))


def test_the_papers_settings_are_the_defaults():
    config = MAEConfig()
    assert config.mistakes() == []
    assert (config.encoder.init, config.encoder.has_cls) == ("xavier", True)
    assert (config.decoder.width, config.decoder.depth, config.decoder.heads) == (512, 8, 16)
    assert config.masking == Random(scale=0.75)
    assert (config.crop.scale, config.crop.flip, config.norm_pixels) == ((0.2, 1.0), True, True)
    assert config.min_side() == config.crop.min_side((224, 224))
    assert from_dict(MAEConfig, to_dict(config)) == config


def test_all_mistakes_are_told_at_once_by_field():
    config = MAEConfig(
        encoder=ViTConfig((30, 32), 4, width=18, heads=4, depth=2),
        decoder=DecoderConfig(width=10, heads=3, mlp_ratio=0.0),
        crop=Crop(scale=(0.0, 2.0)),
    )
    fields = [
        "encoder.image_size",
        "encoder.width",
        "encoder.width",
        "decoder.width",
        "decoder.mlp_ratio",
        "crop.scale",
    ]
    assert [mistake.split(" = ")[0] for mistake in config.mistakes()] == fields
    assert "decoder.heads = 3" in config.mistakes()[3]
    (masking,) = replace(TINY, masking=Random(scale=1.0)).mistakes()
    assert masking.startswith("masking.scale = 1.0")
    point = ViTConfig((4, 4), 1, width=16, depth=1, heads=2, mean=(0.5,), std=(0.5,))
    (single,) = replace(TINY, encoder=point).mistakes()
    assert single.startswith("norm_pixels = True: a patch of one value")
    assert replace(TINY, encoder=point, norm_pixels=False).mistakes() == TINY.mistakes() == []
    with pytest.raises(ConfigError) as caught:
        MAE(config)
    assert caught.value.mistakes == config.mistakes()
