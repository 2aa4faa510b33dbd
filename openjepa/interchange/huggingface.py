"""Image models of the Hugging Face hub, or of a local directory, as encoders; no section of the paper.

`hf://NAME`, `hf://NAME?revision=REV`, or the path of a directory with a `config.json`. Configuration and safetensors
are read; nothing is executed that comes with a model.
"""

from __future__ import annotations

import hashlib
import inspect
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl

import torch
from safetensors import SafetensorError
from torch import Tensor

from openjepa.errors import CheckpointError, ConfigError, nearest, sentence
from openjepa.randomness import initial_weights
from openjepa.vision.encoder import IMAGENET_MEAN, IMAGENET_STD, Encoder, Features

KINDS = ("beit", "data2vec-vision", "deit", "dinov2", "dinov2_with_registers", "dinov3_vit", "ijepa", "vit", "vit_mae",
         "vit_msn")  # fmt: skip
"""The models whose hidden states are patch tokens in raster order, behind class, distillation and register tokens."""
ROTARY = ("dinov3_vit",)  # positions by rotation, not from a table: any grid
WANTED = ["config.json", "preprocessor_config.json", "model.safetensors", "model.safetensors.index.json",
          "model-*-of-*.safetensors"]  # fmt: skip
"""What is downloaded: no other precision, no other framework."""
ATTENTION = "sdpa"  # never the configuration's choice: that may name a kernel to be downloaded and run
UNSET = (0.5, 0.5, 0.5)
"""Mean and std of an image processor that nobody told of any others."""
NAMES_ONLY = ("_name_or_path", "transformers_version", "architectures", "dtype", "torch_dtype", "id2label", "label2id")
"""Entries of a configuration that change no feature."""
UNUSED = ("pooler.", "embeddings.mask_token")
"""Weights that change no feature, and so may be missing."""


class HuggingFaceEncoder(Encoder):
    """A vision transformer of `transformers`. Tokens are normed by its own final norm, class tokens left out."""

    is_known = True

    def __init__(
        self, model: Any, image_size: tuple[int, int], mean: tuple[float, ...], std: tuple[float, ...]
    ) -> None:
        """`model`: one of KINDS, without pooler; an MAE keeps all patches (mask_ratio 0)."""
        super().__init__(mean, std)
        self.model, self.image_size, self.channels = model, image_size, len(mean)
        self.width, self.depth = model.config.hidden_size, model.config.num_hidden_layers
        self._takes = set(inspect.signature(model.forward).parameters)

    def features(self, images: Tensor, num_layers: int) -> Features:
        rows, columns = self._grid(images.shape[2], images.shape[3])
        more: dict[str, Any] = {}
        if "interpolate_pos_encoding" in self._takes:
            more["interpolate_pos_encoding"] = images.shape[2:] != _pair(self.model.config.image_size)
        if "noise" in self._takes:  # MAE sorts patches by it, and keeps all of them here: raster order stays
            more["noise"] = torch.arange(rows * columns, device=images.device).expand(len(images), -1)
        found = self.model(pixel_values=images, output_hidden_states=num_layers > 1, **more)
        # The last one comes normed, always. That of hidden_states is normed in some releases and not in others.
        before = found.hidden_states[-num_layers:-1] if num_layers > 1 else ()
        norm = self.model.norm if self.model.config.model_type in ROTARY else self.model.layernorm
        layers = [norm(tokens) for tokens in before] + [found.last_hidden_state]
        return Features(tuple(tokens[:, -rows * columns :] for tokens in layers), (rows, columns))

    def _grid(self, height: int, width: int) -> tuple[int, int]:
        """Rows and columns of patches. ConfigError for a size that the positions cannot be stretched to."""
        config = self.model.config
        patch, size = _pair(config.patch_size), _pair(config.image_size)
        rows, columns = height // patch[0], width // patch[1]
        if (height, width) == size:
            return rows, columns
        is_square = patch[0] == patch[1] and size[0] // patch[0] == size[1] // patch[1]
        if not is_square and config.model_type not in ROTARY:
            rule = f"this model takes {size} only, as its positions are of no square grid"
            raise ConfigError(sentence("size of images", (height, width), rule))
        if height % patch[0] or width % patch[1]:
            rule = f"height and width must be multiples of the patch, {patch}"
            raise ConfigError(sentence("size of images", (height, width), rule))
        return rows, columns

    def fingerprint(self) -> str:
        # the release too: how positions are stretched has changed between releases
        import transformers

        config = {key: value for key, value in self.model.config.to_dict().items() if key not in NAMES_ONLY}
        about = json.dumps(config, sort_keys=True, default=str)
        about = f"{type(self.model).__name__} {transformers.__version__} {about} {super().fingerprint()}"
        return hashlib.sha256(about.encode()).hexdigest()

    def untrained(self, seed: int) -> HuggingFaceEncoder:
        from transformers import AutoModel

        with initial_weights(seed):
            model = AutoModel.from_config(self.model.config, dtype=torch.float32, trust_remote_code=False)
        mean, std = (tuple(each.flatten().tolist()) for each in (self.mean, self.std))
        return _frozen(model, self.image_size, mean, std)


def is_huggingface(path: str | Path) -> bool:
    """Whether it begins with hf:// or is a directory that `save_pretrained` wrote."""
    # pathlib makes one slash of two
    return str(path).startswith("hf:/") or (Path(path) / "config.json").is_file()


def read_encoder(path: str | Path, which: str = "target") -> HuggingFaceEncoder:
    """The encoder of a model on the hub, or of one that `save_pretrained` wrote; in evaluation mode, float32.

    Image size, mean and std are those of its `preprocessor_config.json` (its way of resizing is not ours, and is not
    read). Without that file: the size of `config.json` and ImageNet's mean and std, which are wrong for models that
    were trained with others (ViT's own have 0.5): save the image processor beside the model. I-JEPA's have 0.5 in the
    file and were trained with ImageNet's; where the file says 0.5, I-JEPA gets ImageNet's (source: transformers'
    convert_ijepa_to_hf.py builds `ViTImageProcessor(size=...)`, whose default that is; facebookresearch/ijepa
    src/transforms.py normalises by ImageNet's).

    `which`: "target" alone, as a model here is one encoder. Of the released I-JEPA it is the context encoder (the
    converter reads `encoder`), where the paper evaluates the target encoder; the *.pth.tar files hold both. A BEiT or
    data2vec of mean pooling has no norm of tokens, so its tokens are not normed. Raises CheckpointError.
    """
    path = str(path)
    if which != "target":
        rule = "a Hugging Face model is one encoder"
        raise CheckpointError(sentence("which", which, rule, "Leave it at target."))
    try:
        import huggingface_hub.errors
        import transformers  # noqa: F401
    except ImportError as error:
        rule, remedy = f"needs the transformers library ({error})", "Type pip install 'openjepa[hf]'."
        raise CheckpointError(sentence("encoder", path, rule, remedy)) from None
    folder = _folder(path, huggingface_hub)
    config = _config(path, folder)
    size, mean, std = _preprocessing(folder / "preprocessor_config.json", config)
    return _frozen(_model(path, folder, config), size, mean, std)


def _frozen(model: Any, size: tuple[int, int], mean: tuple[float, ...], std: tuple[float, ...]) -> HuggingFaceEncoder:
    if getattr(model, "pooler", None) is not None:
        model.pooler = None  # not used, and where a checkpoint has none its weights would be drawn at each load
    return HuggingFaceEncoder(model, size, mean, std).requires_grad_(False).eval()


def _folder(path: str, hub: Any) -> Path:
    """The directory of the model's files; downloaded, or taken from the hub's cache, unless it is a local one."""
    if not path.startswith("hf:/"):
        return Path(path)
    name, _, query = path.removeprefix("hf:/").removeprefix("/").partition("?")
    given = dict(parse_qsl(query, keep_blank_values=True))
    for key in given:
        if key != "revision":
            raise CheckpointError(sentence("encoder", path, f"unknown key {key!r}", nearest(key, ["revision"])))
    if name and Path(name).expanduser().is_dir():
        return Path(name).expanduser()
    try:
        return Path(hub.snapshot_download(name, revision=given.get("revision"), allow_patterns=WANTED))
    except (OSError, ValueError, hub.errors.HTTPError) as error:
        remedy = (
            "Check the name and revision, the network (is HF_HUB_OFFLINE set?) and, for models behind a gate, "
            "`hf auth login`; or give a local directory that save_pretrained wrote."
        )
        raise CheckpointError(sentence("encoder", path, f"cannot be had: {_said(error)}", remedy)) from error


def _config(path: str, folder: Path) -> Any:
    """The model's configuration. CheckpointError unless its hidden states are known to be patch tokens."""
    import transformers
    from huggingface_hub.errors import StrictDataclassError

    if not (folder / "config.json").is_file():
        rule = "no config.json in it"
        raise CheckpointError(sentence("encoder", path, rule, "Give a directory that save_pretrained wrote."))
    try:
        with _quiet():
            config = transformers.AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    except (OSError, ValueError, TypeError, StrictDataclassError) as error:
        remedy = "A newer transformers may know it."
        raise CheckpointError(
            sentence("encoder", path, f"config.json cannot be read: {_said(error)}", remedy)
        ) from error
    if config.model_type in KINDS:
        if config.model_type == "vit_mae":
            config.mask_ratio = 0.0
        return config
    kind = transformers.MODEL_MAPPING.get(type(config), None)
    what = f"model_type of {path}"
    if getattr(kind, "main_input_name", None) != "pixel_values":
        raise CheckpointError(sentence(what, config.model_type, "is not a model of images", _known()))
    remedy = (
        f"{_known()} Wrap any other: openjepa.CallableEncoder(lambda images: model(images).pooler_output, "
        "image_size=(224, 224)), say."
    )
    raise CheckpointError(sentence(what, config.model_type, "gives no patch tokens that are known here", remedy))


def _said(error: BaseException) -> str:
    return str(error).strip().removesuffix(".")


def _known() -> str:
    return f"Known: {', '.join(KINDS)}."


def _model(path: str, folder: Path, config: Any) -> Any:
    """The weights, all of them; heads and decoders are left out, and the pooler may be missing."""
    from transformers import AutoModel

    try:
        with _quiet():
            model, report = AutoModel.from_pretrained(
                folder, config=config, use_safetensors=True, trust_remote_code=False, local_files_only=True,
                dtype=torch.float32, attn_implementation=ATTENTION, output_loading_info=True,
                ignore_mismatched_sizes=True,  # they are in the report
            )  # fmt: skip
    except (OSError, ValueError, RuntimeError, KeyError, ImportError, ZeroDivisionError, SafetensorError) as error:
        remedy = "Give one with whole .safetensors files; pickled weights are not read."
        raise CheckpointError(sentence("encoder", path, f"weights cannot be read: {_said(error)}", remedy)) from error
    missing = sorted(key for key in report["missing_keys"] if not key.startswith(UNUSED))
    # (name, shape, shape expected); of older releases the name alone
    wrong = sorted(key if isinstance(key, str) else " ".join(map(str, key)) for key in report["mismatched_keys"])
    if missing or wrong:
        others = sorted(report["unexpected_keys"])
        rule = f"weights do not fit config.json. Missing: {missing}. Shapes: {wrong}. Not used: {others}"
        raise CheckpointError(sentence("encoder", path, rule))
    return model


def _preprocessing(file: Path, config: Any) -> tuple[tuple[int, int], tuple[float, ...], tuple[float, ...]]:
    """Image size, mean and std for pixels in 0..1 from an image processor's file, or what stands in for it."""
    channels = config.num_channels
    try:
        given = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
        size = _size(given) or _pair(config.image_size)
        mean = _numbers(given.get("image_mean", IMAGENET_MEAN), channels)
        std = _numbers(given.get("image_std", IMAGENET_STD), channels)
        if not given.get("do_normalize", True):
            mean, std = (0.0,) * channels, (1.0,) * channels
        elif config.model_type == "ijepa" and (mean, std) == (UNSET, UNSET):
            mean, std = IMAGENET_MEAN, IMAGENET_STD
        most = 255 * given.get("rescale_factor", 1 / 255) if given.get("do_rescale", True) else 255
        if not all(0 < each < float("inf") for each in (*size, *std, most)):
            raise ValueError("sizes, image_std and rescale_factor must be above 0")
        return size, tuple(each / most for each in mean), tuple(each / most for each in std)
    except (ValueError, TypeError, LookupError, AttributeError) as error:
        raise CheckpointError(f"{file} gives no preprocessing: {type(error).__name__}: {error}") from error


def _size(given: dict[str, Any]) -> tuple[int, int] | None:
    """(height, width) that an image processor leaves, old files and new: the crop, if it crops."""
    size = given.get("size")
    if given.get("do_center_crop", "crop_size" in given) and given.get("crop_size"):
        size = given["crop_size"]
    if isinstance(size, dict):
        size = size["shortest_edge"] if "shortest_edge" in size else (size["height"], size["width"])
    return None if size is None else _pair(size)


def _pair(sides: Any) -> tuple[int, int]:
    return (int(sides), int(sides)) if isinstance(sides, int) else (int(sides[0]), int(sides[1]))


def _numbers(given: Any, channels: int) -> tuple[float, ...]:
    """One number a channel."""
    numbers = (float(given),) * channels if isinstance(given, (int, float)) else tuple(float(each) for each in given)
    if len(numbers) != channels:
        raise ValueError(f"{len(numbers)} numbers for {channels} channels")
    return numbers


@contextmanager
def _quiet() -> Iterator[None]:
    """Within it transformers reports errors only: which heads were left out is no news."""
    from transformers.utils import logging

    verbosity = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
