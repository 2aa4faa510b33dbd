"""Hugging Face models as encoders: tiny ones made here, the real library, no network."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

import openjepa
from openjepa.errors import CheckpointError, ConfigError
from openjepa.interchange.huggingface import KINDS, HuggingFaceEncoder
from openjepa.vision.encoder import IMAGENET_MEAN, IMAGENET_STD
from openjepa.vision.vit import ViT, ViTConfig

os.environ["HF_HUB_OFFLINE"] = "1"  # read when the library is imported
huggingface_hub = pytest.importorskip("huggingface_hub")
transformers = pytest.importorskip("transformers")

SHAPE = {"hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 4, "intermediate_size": 64,
         "image_size": 32, "patch_size": 8}  # fmt: skip
SETTINGS = {
    "beit": {"use_relative_position_bias": True},
    "data2vec-vision": {"use_relative_position_bias": True},
    "dinov2_with_registers": {"num_register_tokens": 4},
    "dinov3_vit": {"num_register_tokens": 2},
}
HALVES = {"image_mean": [0.5] * 3, "image_std": [0.5] * 3}


@pytest.fixture(autouse=True)
def _offline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))


def configured(kind: str, **settings: Any) -> Any:
    return transformers.AutoConfig.for_model(kind, **{**SHAPE, **SETTINGS.get(kind, {}), **settings})


def saved(directory: Path, kind: str, processor: dict[str, Any] | None = None, **settings: Any) -> Path:
    """A model of this kind as save_pretrained writes it, its weights moved away from their first values."""
    model = transformers.AutoModel.from_config(configured(kind, **settings))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    model.save_pretrained(directory)
    if processor is not None:
        (directory / "preprocessor_config.json").write_text(json.dumps(processor))
    return directory


def loaded(path: Path | str) -> HuggingFaceEncoder:
    encoder = openjepa.load_encoder(path)
    assert isinstance(encoder, HuggingFaceEncoder)
    return encoder


def images(height: int = 32, width: int = 32) -> Tensor:
    return torch.rand(2, 3, height, width, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


def own_forward(directory: Path, encoder: HuggingFaceEncoder, x: Tensor, **settings: Any) -> Tensor:
    """The last hidden state as its own class gives it, summary tokens included."""
    model = transformers.AutoModel.from_pretrained(directory, **settings).double().eval()
    takes = {"interpolate_pos_encoding": True} if encoder.model.config.model_type in ("ijepa", "vit", "deit") else {}
    with torch.no_grad():
        return model(pixel_values=encoder.normalise(x), **takes).last_hidden_state


@pytest.mark.parametrize("kind", KINDS)
def test_tokens_are_those_of_the_model(kind: str, tmp_path: Path) -> None:
    directory = saved(tmp_path / "model", kind)
    encoder = loaded(directory).double()
    found = encoder(images(), 3)
    assert found.grid == (4, 4)
    assert [tuple(tokens.shape) for tokens in found.layers] == [(2, 16, 32)] * 3
    if kind == "vit_mae":
        return  # below: its own forward shuffles
    summaries = {"ijepa": 0, "deit": 2, "dinov2_with_registers": 5, "dinov3_vit": 3}.get(kind, 1)
    for left_out in range(3):  # a model without its last layers ends where the earlier layer does
        shorter = own_forward(directory, encoder, images(), num_hidden_layers=3 - left_out)
        assert shorter.shape == (2, summaries + 16, 32)
        torch.testing.assert_close(found.layers[2 - left_out], shorter[:, summaries:], rtol=0, atol=1e-12)
    assert encoder(images(), 1).tokens.equal(found.tokens)


def test_mae_keeps_every_patch_in_raster_order(tmp_path: Path) -> None:
    directory = saved(tmp_path / "model", "vit_mae")
    encoder = loaded(directory).double()
    found = encoder(images(), 2)
    model = transformers.AutoModel.from_pretrained(directory, mask_ratio=0.0).double().eval()
    with torch.no_grad():
        shuffled = model(pixel_values=encoder.normalise(images()))
    order = shuffled.ids_restore
    assert not order.equal(torch.arange(16).expand(2, -1))
    expected = shuffled.last_hidden_state[:, 1:].gather(1, order[..., None].expand(-1, -1, 32))
    torch.testing.assert_close(found.tokens, expected, rtol=0, atol=1e-12)


def hub_layout(ours: ViT) -> dict[str, Tensor]:
    """Our tensors by the names of the files on the hub (transformers, convert_ijepa_to_hf.py)."""
    given, config = ours.state_dict(), ours.config
    tensors = {
        "embeddings.position_embeddings": ours.positions(config.grid)[None],
        "embeddings.patch_embeddings.projection.weight": given["embed.weight"].unflatten(1, (3, config.patch, -1)),
        "embeddings.patch_embeddings.projection.bias": given["embed.bias"],
        "layernorm.weight": given["norm.weight"], "layernorm.bias": given["norm.bias"],
    }  # fmt: skip
    names = {
        "norm1": "layernorm_before", "norm2": "layernorm_after", "attn.proj": "attention.output.dense",
        "mlp.fc1": "intermediate.dense", "mlp.fc2": "output.dense",
    }  # fmt: skip
    for block in range(config.depth):
        for end in ("weight", "bias"):
            for name, theirs in names.items():
                tensors[f"encoder.layer.{block}.{theirs}.{end}"] = given[f"blocks.{block}.{name}.{end}"]
            parts = given[f"blocks.{block}.attn.qkv.{end}"].chunk(3)
            for name, part in zip(("query", "key", "value"), parts, strict=True):
                tensors[f"encoder.layer.{block}.attention.attention.{name}.{end}"] = part
    return {name: tensor.float().contiguous() for name, tensor in tensors.items()}


def test_our_encoder_in_the_layout_of_the_hub_computes_the_same(stirred: Any, tmp_path: Path) -> None:
    ours = stirred(ViT(ViTConfig((32, 32), 8, 32, 3, 4)))
    config = {"model_type": "ijepa", **SHAPE, "intermediate_size": 128, "layer_norm_eps": 1e-6}
    (tmp_path / "config.json").write_text(json.dumps(config))
    save_file(hub_layout(ours), tmp_path / "model.safetensors", {"format": "pt"})
    found, expected = loaded(tmp_path).double()(images(), 3), ours.double()(images(), 3)
    for one, other in zip(found.layers, expected.layers, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-6)  # our table of positions is float32


@pytest.mark.parametrize("kind", KINDS)
def test_other_sizes(kind: str, tmp_path: Path) -> None:
    encoder = loaded(saved(tmp_path / "model", kind)).double()
    found = encoder(images(48, 64), 2)
    assert found.grid == (6, 8)
    assert found.tokens.shape == (2, 48, 32)
    if kind in ("ijepa", "vit", "deit", "dinov2"):
        whole = own_forward(tmp_path / "model", encoder, images(48, 64))
        torch.testing.assert_close(found.tokens, whole[:, -48:], rtol=0, atol=1e-12)
    with pytest.raises(ConfigError, match=r"size of images = \(36, 32\): .*multiples of the patch, \(8, 8\)"):
        encoder(images(36, 32))


def test_positions_of_no_square_grid_cannot_be_stretched(tmp_path: Path) -> None:
    encoder = loaded(saved(tmp_path / "model", "vit", image_size=[32, 48])).double()
    assert encoder.image_size == (32, 48)
    assert encoder(images(32, 48)).grid == (4, 6)
    with pytest.raises(ConfigError, match=r"size of images = \(48, 32\): this model takes \(32, 48\) only"):
        encoder(images(48, 32))


@pytest.mark.parametrize(
    ("given", "size"),
    [
        ({"size": 40}, (40, 40)),
        ({"size": {"height": 40, "width": 48}}, (40, 48)),
        ({"size": {"shortest_edge": 40}}, (40, 40)),
        ({"size": {"shortest_edge": 48}, "crop_size": {"height": 40, "width": 32}, "do_center_crop": True}, (40, 32)),
        ({"size": 48, "crop_size": 40, "do_center_crop": True}, (40, 40)),
        ({"size": 48, "crop_size": 40, "do_center_crop": False}, (48, 48)),
        ({}, (32, 32)),
    ],
)
def test_sizes_of_image_processors(given: dict[str, Any], size: tuple[int, int], tmp_path: Path) -> None:
    encoder = loaded(saved(tmp_path / "model", "vit", given, num_hidden_layers=1))
    assert encoder.image_size == size
    assert encoder(images(*size).float()).grid == (size[0] // 8, size[1] // 8)


def statistics(encoder: HuggingFaceEncoder) -> tuple[list[float], list[float]]:
    return encoder.mean.flatten().tolist(), encoder.std.flatten().tolist()


@pytest.mark.parametrize(
    ("kind", "given", "mean", "std"),
    [
        ("vit", HALVES, HALVES["image_mean"], HALVES["image_std"]),
        ("vit", None, IMAGENET_MEAN, IMAGENET_STD),
        ("vit", {"image_mean": 0.5, "image_std": 0.25}, [0.5] * 3, [0.25] * 3),
        ("vit", {**HALVES, "do_normalize": False}, [0.0] * 3, [1.0] * 3),
        ("vit", {**HALVES, "rescale_factor": 1 / 127.5}, [0.25] * 3, [0.25] * 3),
        ("vit", {"image_mean": [51.0] * 3, "image_std": [102.0] * 3, "do_rescale": False}, [0.2] * 3, [0.4] * 3),
        ("ijepa", HALVES, IMAGENET_MEAN, IMAGENET_STD),
        ("ijepa", None, IMAGENET_MEAN, IMAGENET_STD),
        ("ijepa", {"image_mean": [0.1, 0.2, 0.3], "image_std": [0.4, 0.5, 0.6]}, [0.1, 0.2, 0.3], [0.4, 0.5, 0.6]),
    ],
)
def test_mean_and_std(kind: str, given: dict[str, Any] | None, mean: Any, std: Any, tmp_path: Path) -> None:
    found = statistics(loaded(saved(tmp_path / "model", kind, given, num_hidden_layers=1)))
    assert found == (pytest.approx(mean), pytest.approx(std))


def test_a_processor_saved_by_the_library_is_understood(tmp_path: Path) -> None:
    saved(tmp_path, "ijepa", num_hidden_layers=1)
    processor = pytest.importorskip("transformers.models.vit.image_processing_pil_vit").ViTImageProcessorPil
    processor(size={"height": 48, "width": 48}).save_pretrained(tmp_path)  # as the converter of I-JEPA does
    assert json.loads((tmp_path / "preprocessor_config.json").read_text())["image_mean"] == [0.5] * 3
    encoder = loaded(tmp_path)
    assert encoder.image_size == (48, 48)
    assert statistics(encoder) == (pytest.approx(IMAGENET_MEAN), pytest.approx(IMAGENET_STD))


@pytest.mark.parametrize("kind", ["ijepa", "vit", "vit_mae", "dinov2"])
def test_untrained_is_the_architecture_from_a_seed(kind: str, tmp_path: Path) -> None:
    encoder = loaded(saved(tmp_path / "model", kind, HALVES))
    torch.manual_seed(1)
    first, state = encoder.untrained(3), torch.random.get_rng_state()
    torch.manual_seed(2)
    again, other = encoder.untrained(3), encoder.untrained(4)
    outputs = [each(images().float()).tokens for each in (encoder, first, again, other)]
    assert outputs[1].equal(outputs[2])
    assert not any(outputs[1].allclose(each) for each in (outputs[0], outputs[3]))
    assert first.fingerprint() == again.fingerprint()
    assert len({each.fingerprint() for each in (encoder, first, other)}) == 3
    assert statistics(first) == statistics(encoder)
    assert not first.training
    assert not any(parameter.requires_grad for parameter in first.parameters())
    torch.manual_seed(1)
    assert state.equal(torch.random.get_rng_state())  # nothing was drawn from the global generator


def test_fingerprint_is_of_weights_and_configuration(tmp_path: Path) -> None:
    directory = saved(tmp_path / "model", "vit", hidden_act="gelu")
    first = loaded(directory).fingerprint()
    directory = directory.rename(tmp_path / "moved")
    assert loaded(directory).fingerprint() == first
    document = json.loads((directory / "config.json").read_text())
    for change in ({"hidden_act": "relu"}, {"num_attention_heads": 2}, {"layer_norm_eps": 1e-3}):
        (directory / "config.json").write_text(json.dumps({**document, **change}))
        assert loaded(directory).fingerprint() != first, change
    (directory / "config.json").write_text(json.dumps({**document, "id2label": {"0": "cat"}}))
    encoder = loaded(directory)
    assert encoder.fingerprint() == first
    next(encoder.parameters()).add_(1e-3)
    assert encoder.fingerprint() != first


def test_heads_are_left_out_and_a_missing_pooler_is_not_drawn(tmp_path: Path, capfd: Any) -> None:
    model = transformers.ViTForImageClassification(configured("vit", num_labels=3))
    model.save_pretrained(tmp_path)
    capfd.readouterr()
    encoder = loaded(tmp_path)
    assert "UNEXPECTED" not in "".join(capfd.readouterr())
    assert encoder.fingerprint() == loaded(tmp_path).fingerprint()
    with torch.no_grad():
        expected = model.eval().vit(pixel_values=encoder.normalise(images().float())).last_hidden_state
    torch.testing.assert_close(encoder(images().float()).tokens, expected[:, 1:])


def test_half_precision_files_are_read_as_float32(tmp_path: Path) -> None:
    transformers.AutoModel.from_config(configured("dinov2")).half().save_pretrained(tmp_path)
    encoder = loaded(tmp_path)
    assert encoder(images().float()).tokens.dtype == encoder.untrained(0)(images().float()).tokens.dtype
    assert {parameter.dtype for parameter in encoder.parameters()} == {torch.float32}


def test_evaluate_runs_on_one(tmp_path: Path) -> None:
    directory = saved(tmp_path / "model", "ijepa", {**HALVES, "size": {"height": 32, "width": 32}})
    data = "scenes?num_images={}&size=32&seed={}&max_objects=3"
    found = openjepa.evaluate(
        f"hf://{directory}", data.format(60, 1), data.format(30, 2), tasks=["knn", "depth"], cache=None, workers=0
    )
    assert [figure.error for figure in found.figures] == [None] * len(found.figures)
    assert {figure.row for figure in found.figures} == {"raw pixels", "untrained", "encoder"}
    assert found.settings["encoder"]["kind"] == "HuggingFaceEncoder"


def test_the_hub_by_name_from_its_cache(tmp_path: Path) -> None:
    commit, repository = "a" * 40, tmp_path / "hub" / "models--nobody--tiny"
    snapshot = saved(repository / "snapshots" / commit, "ijepa", {**HALVES, "size": 40})
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(commit)
    expected = loaded(snapshot)
    for path in ("hf://nobody/tiny", Path("hf://nobody/tiny"), f"hf://nobody/tiny?revision={commit}"):
        assert loaded(path).fingerprint() == expected.fingerprint()
    with pytest.raises(CheckpointError, match=r"(?s)nobody/tiny\?revision=v2.*cannot be had"):
        loaded("hf://nobody/tiny?revision=v2")


# --------------------------------------------------------------------------------------------------------- mistakes


@pytest.mark.parametrize("name", ["nobody/nothing", "", "a/b/c", "no such directory"])
def test_no_such_name_or_no_network(name: str) -> None:
    with pytest.raises(CheckpointError, match=r"(?s)cannot be had.*HF_HUB_OFFLINE.*hf auth login.*save_pretrained"):
        openjepa.load_encoder(f"hf://{name}")


def test_an_address_has_one_key() -> None:
    with pytest.raises(CheckpointError, match=r"unknown key 'revison'\. Did you mean 'revision'\?"):
        openjepa.load_encoder("hf://nobody/nothing?revison=main")


def test_the_context_encoder_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="which = 'context': a Hugging Face model is one encoder"):
        openjepa.load_encoder(saved(tmp_path / "model", "ijepa"), "context")


def test_without_the_library(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(CheckpointError, match=r"needs the transformers library .*pip install 'openjepa\[hf\]'"):
        openjepa.load_encoder("hf://nobody/nothing")


@pytest.mark.parametrize(
    ("config", "problem"),
    [
        ({"model_type": "resnet"}, r"'resnet': gives no patch tokens that are known.*ijepa.*openjepa\.CallableEncoder"),
        ({"model_type": "clip_vision_model"}, r"gives no patch tokens that are known here.*CallableEncoder"),
        ({"model_type": "bert"}, r"model_type of .* = 'bert': is not a model of images\. Known: beit"),
        ({"model_type": "mine", "auto_map": {"AutoConfig": "mine.Config"}}, "config.json cannot be read"),
        ({"model_type": "vit", "hidden_size": "wide"}, "cannot be read"),
        ({}, "config.json cannot be read"),
        ({"model_type": "vit"}, "weights cannot be read.*pickled weights are not read"),
    ],
)
def test_directories_that_are_none(config: dict[str, Any], problem: str, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps(config))
    (tmp_path / "mine.py").write_text("raise SystemExit('executed')")
    torch.save({}, tmp_path / "pytorch_model.bin")
    with pytest.raises(CheckpointError, match=f"(?s){problem}"):
        openjepa.load_encoder(tmp_path)


def test_an_empty_directory(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"no config\.json in it"):
        openjepa.load_encoder(f"hf://{tmp_path}")


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"num_hidden_layers": 4}, r"Missing: \[.*layer.*\.3\..*Shapes: \[\]"),
        ({"patch_size": 4}, r"Missing: \[\]\. Shapes: \[.*position_embeddings"),
    ],
)
def test_weights_that_do_not_fit(change: dict[str, int], problem: str, tmp_path: Path) -> None:
    saved(tmp_path, "vit")
    document = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**document, **change}))
    with pytest.raises(CheckpointError, match=f"(?s)weights do not fit config.json. {problem}"):
        openjepa.load_encoder(tmp_path)


def test_torn_weights(tmp_path: Path) -> None:
    file = saved(tmp_path, "vit") / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-100])
    with pytest.raises(CheckpointError, match="weights cannot be read"):
        openjepa.load_encoder(tmp_path)


@pytest.mark.parametrize(
    "given",
    ["[]", "{torn", '{"image_mean": [0.5]}', '{"image_std": [0.5, 0.5, 0]}', '{"size": {"longest_edge": 9}}',
     '{"size": 0}', '{"rescale_factor": "1/255"}', '{"size": [224]}'],
)  # fmt: skip
def test_image_processors_that_are_none(given: str, tmp_path: Path) -> None:
    saved(tmp_path, "vit", num_hidden_layers=1)
    (tmp_path / "preprocessor_config.json").write_text(given)
    with pytest.raises(CheckpointError, match=r"preprocessor_config\.json gives no preprocessing: "):
        openjepa.load_encoder(tmp_path)


def test_a_configuration_cannot_choose_a_kernel(tmp_path: Path) -> None:
    saved(tmp_path, "vit")
    document = json.loads((tmp_path / "config.json").read_text())
    hostile = {"attn_implementation": "mallory/kernel", "_attn_implementation": "mallory/kernel"}
    (tmp_path / "config.json").write_text(json.dumps({**document, **hostile}))
    encoder = loaded(tmp_path)
    assert [each.model.config._attn_implementation for each in (encoder, encoder.untrained(0))] == ["sdpa", "sdpa"]
