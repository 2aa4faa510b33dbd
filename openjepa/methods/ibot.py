"""iBOT: a student matches its EMA over prototypes, across views and on hidden patches (arXiv 2111.07832, section 3).

Without the patch loss it is DINO (arXiv 2104.14294). Departs from the released code in frozen sine-cosine positions,
bilinear crops, one limit for the norm of the whole gradient, and a teacher's head that is shared exactly where the
student's is.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from openjepa.data.augment import Augment
from openjepa.data.views import Crop
from openjepa.distributed import mean_over_ranks
from openjepa.errors import ConfigError, sentence
from openjepa.masking.blockwise import Blockwise
from openjepa.methods.base import Method, MethodConfig
from openjepa.methods.multicrop import CropsBatch, MultiCrop
from openjepa.methods.prototypes import Head, HeadConfig, balanced, patch_cross_entropy, view_cross_entropy
from openjepa.schedule import cosine, linear
from openjepa.vision.vit import ViT, ViTConfig


@dataclass(frozen=True)
class IBOTConfig(MethodConfig):
    """iBOT: everything about the method that changes the result."""

    encoder: ViTConfig = field(default_factory=lambda: ViTConfig(has_cls=True, pooling="cls"))
    head: HeadConfig = HeadConfig()
    shared_head: bool = True
    """One head for class token and patches (published); off, each has its own."""
    masking: Blockwise = Blockwise()
    global_crop: Crop = Crop(scale=(0.25, 1.0), flip=True)
    local_crop: Crop = Crop(scale=(0.05, 0.25), flip=True)
    num_locals: int = 10
    """Local crops an image; only the student sees them (published: 10)."""
    local_size: tuple[int, int] = (96, 96)
    """Height and width of a local crop, in pixels (published: 96)."""
    first_view: Augment = Augment(blur=1.0)
    second_view: Augment = Augment(blur=0.1, solarise=0.2)
    local_view: Augment = Augment(blur=0.5)
    cls_weight: float = 1.0
    """Weight of the loss between views (paper: 1)."""
    patch_weight: float = 1.0
    """Weight of the loss on hidden patches (paper: 1); at 0 nothing is hidden, and this is DINO."""
    student_temp: float = 0.1
    """Temperature of the student's softmax."""
    teacher_temp: tuple[float, float] = (0.04, 0.07)
    """Temperature of the teacher's on class tokens, at the start and after the warm-up, linear between."""
    teacher_patch_temp: tuple[float, float] = (0.04, 0.07)
    """The same on patches."""
    temp_warmup: float = 30 / 800
    """Share of the run over which the teacher's temperatures rise (published: 30 of 800 epochs)."""
    centring: Literal["mean", "sinkhorn", "none"] = "mean"
    """What keeps one prototype from taking every image. mean: subtract the teacher's mean logits (published); sinkhorn:
    give every prototype the same share of the batch (SwAV, DINOv2); none."""
    centre_momentum: float = 0.9
    """Of that running mean."""
    momentum: tuple[float, float] = (0.996, 1.0)
    """EMA momentum of the teacher, from the first to the second (published; 0.9995 at a batch of 256)."""
    momentum_schedule: Literal["cosine", "linear"] = "cosine"
    """Course between the two."""
    freeze_prototypes: float = 1 / 800
    """Share of the run at whose start the prototypes stay as they are (published: 1 of 800 epochs)."""
    drop_path: float = 0.1
    """Share of the last block's branches that the student leaves out, rising linearly to it (published: 0.1)."""

    def mistakes(self) -> list[str]:
        """Every setting that cannot be used, as sentences."""
        wrong = [*self.encoder.mistakes(), *self.head.mistakes(), *self._view_mistakes()]
        if not self.encoder.has_cls:
            remedy = "Set it, and encoder.pooling to cls."
            wrong.append(sentence("encoder.has_cls", False, "iBOT compares views by their class token", remedy))
        if not self.encoder.mistakes() and self.patch_weight:
            wrong += self.masking.mistakes(self.encoder.grid)
        for name in ("cls_weight", "patch_weight"):
            if not 0 <= getattr(self, name) < float("inf"):
                wrong.append(sentence(name, getattr(self, name), "must be from 0"))
        if self.cls_weight == self.patch_weight == 0:
            wrong.append(sentence("cls_weight, patch_weight", (0, 0), "nothing is left to learn from"))
        for name in ("student_temp", "teacher_temp", "teacher_patch_temp"):
            given = getattr(self, name)
            if not all(0 < temp < float("inf") for temp in (given if isinstance(given, tuple) else (given,))):
                wrong.append(sentence(name, given, "must be above 0"))
        if not all(0 <= m <= 1 for m in self.momentum):
            wrong.append(sentence("momentum", self.momentum, "must both be in [0, 1]"))
        for name in ("temp_warmup", "centre_momentum", "freeze_prototypes"):
            if not 0 <= getattr(self, name) <= 1:
                wrong.append(sentence(name, getattr(self, name), "must be in [0, 1]"))
        if not 0 <= self.drop_path < 1:
            wrong.append(sentence("drop_path", self.drop_path, "must be in [0, 1)"))
        return wrong

    def _view_mistakes(self) -> list[str]:
        wrong = []
        for name in ("global_crop", "local_crop"):
            wrong += [mistake.replace("crop.", f"{name}.", 1) for mistake in getattr(self, name).mistakes()]
        for name in ("first_view", "second_view", "local_view"):
            wrong += getattr(self, name).mistakes(name, self.encoder.channels)
        if self.num_locals < 0:
            wrong.append(sentence("num_locals", self.num_locals, "must be from 0"))
        patch = max(1, self.encoder.patch)
        if any(side < patch or side % patch for side in self.local_size):
            rule = f"both sides must be multiples of encoder.patch = {self.encoder.patch}"
            wrong.append(sentence("local_size", self.local_size, rule))
        return wrong

    def min_side(self) -> int:
        sides = [self.global_crop.min_side(self.encoder.image_size)]
        if self.num_locals:
            sides.append(self.local_crop.min_side(self.local_size))
        return max(sides)

    def temps_at(self, t: float) -> tuple[float, float]:
        """The teacher's temperatures on class tokens and on patches at progress t."""
        risen = min(t / self.temp_warmup, 1.0) if self.temp_warmup else 1.0
        return linear(risen, *self.teacher_temp), linear(risen, *self.teacher_patch_temp)


class IBOT(Method):
    """Student and teacher, an encoder and a head each; centres of the teacher's logits."""

    remedy = "Leave --method.centring at mean or sinkhorn, or lower --optim.lr, in another --out."

    def __init__(self, config: IBOTConfig) -> None:
        if wrong := config.mistakes():
            raise ConfigError(wrong)
        super().__init__()
        self.config = config
        vit, has_patches = config.encoder, config.patch_weight > 0
        self.student = ViT(vit)
        self.student_heads = nn.ModuleDict({"cls": Head(vit.width, config.head)})
        if has_patches:
            self.mask_token = nn.Parameter(torch.zeros(vit.width))  # as released
            if not config.shared_head:
                self.student_heads["patch"] = Head(vit.width, config.head)
        self.teacher = copy.deepcopy(self.student).requires_grad_(False)
        self.teacher_heads = copy.deepcopy(self.student_heads).requires_grad_(False)
        self.centres = nn.Module()
        for name in ("cls", "patch") if has_patches else ("cls",):
            self.centres.register_buffer(name, torch.zeros(config.head.num_prototypes))
        self.views = MultiCrop(
            crops=(config.global_crop, config.local_crop),
            sizes=(vit.image_size, config.local_size),
            augments=(config.first_view, config.second_view, config.local_view),
            num_locals=config.num_locals,
            masking=config.masking if has_patches else None,
            grid=vit.grid,
            channels=vit.channels,
            depth=vit.depth,
            drop_path=config.drop_path,
        )
        self._seen: dict[str, Tensor] = {}  # sums over the micro-batches of a step, for its centres
        self._num_seen = 0
        self.register_load_state_dict_post_hook(forget)

    @property
    def encoder(self) -> ViT:
        """The teacher (as published)."""
        return self.teacher

    @property
    def context_encoder(self) -> ViT:
        return self.student

    def head(self, side: str, kind: str) -> Head:
        """The "student"'s or the "teacher"'s head for "cls" or "patch"; one and the same when it is shared."""
        heads = self.student_heads if side == "student" else self.teacher_heads
        head = heads["cls" if self.config.shared_head else kind]
        assert isinstance(head, Head)
        return head

    def teacher_probs(self, logits: Tensor, kind: str, temp: float) -> Tensor:
        """Logits (..., K) to probabilities: centred and sharpened."""
        return F.softmax((logits - self.centres.get_buffer(kind)) / temp, dim=-1)

    def assigned(self, logits: Tensor, kind: str, temp: float) -> Tensor:
        """`teacher_probs`, balanced over the batch where that is the centring: what the student is to match."""
        probs = self.teacher_probs(logits, kind, temp)
        return balanced(probs) if self.config.centring == "sinkhorn" else probs

    def student_logs(self, logits: Tensor) -> Tensor:
        """Logits (..., K) to log-probabilities."""
        return F.log_softmax(logits / self.config.student_temp, dim=-1)

    def forward(self, batch: CropsBatch, t: float) -> dict[str, Tensor]:
        config, count = self.config, len(batch.images)
        # the number of hidden patches decides shapes: first of all, while there is nothing else to wait for
        hidden = None if batch.masks is None else batch.masks.transpose(0, 1).flatten(0, 1)
        index = None if hidden is None else hidden.flatten().nonzero()[:, 0]
        branches = None if batch.branches is None else batch.branches.transpose(0, 1)  # (V, B, depth, 2)
        views = self.student.normalise(torch.cat([batch.images, batch.second]))
        probs, patch_probs, means = self.targets(views, index, t)
        if torch.is_grad_enabled():  # a step follows
            self.note(means, len(views))

        token = None if hidden is None else (hidden, self.mask_token)
        global_branches = None if branches is None else branches[:2].flatten(0, 1)
        (tokens,) = self.student.encode(views, hidden=token, branches=global_branches)
        cls_tokens = [tokens[:, 0].unflatten(0, (2, count))]
        if config.num_locals:
            cls_tokens.append(self.local_cls(batch, branches))
        logs = self.student_logs(self.head("student", "cls")(torch.cat(cls_tokens)))
        cls_loss = view_cross_entropy(probs, logs).mean()
        outputs = {"loss": config.cls_weight * cls_loss, "cls_loss": cls_loss.detach()}
        if hidden is not None and index is not None:
            patches = tokens[:, 1:].flatten(0, 1)[index]
            logs = self.student_logs(self.head("student", "patch")(patches))
            patch_loss = patch_cross_entropy(patch_probs, logs, index // hidden.shape[1], hidden.sum(1))
            outputs["loss"] = outputs["loss"] + config.patch_weight * patch_loss
            outputs["patch_loss"] = patch_loss.detach()
        return outputs

    def frozen(self, t: float) -> frozenset[str]:
        """The prototypes, for the first share of the run."""
        if t >= self.config.freeze_prototypes:
            return frozenset()
        parts = [(kind, name) for kind, head in self.student_heads.items() for name, _ in head.named_parameters()]
        return frozenset(f"student_heads.{kind}.{name}" for kind, name in parts if name in ("weight", "scale"))

    def local_cls(self, batch: CropsBatch, branches: Tensor | None) -> Tensor:
        """The student's class tokens of local crops: (n, B, D)."""
        num_locals = self.config.num_locals
        if branches is not None:
            branches = branches[2:].transpose(0, 1).flatten(0, 1)
        (tokens,) = self.student.encode(self.student.normalise(batch.locals), branches=branches)
        return tokens[:, 0].unflatten(0, (-1, num_locals)).transpose(0, 1)

    @torch.no_grad()
    def targets(self, views: Tensor, index: Tensor | None, t: float) -> tuple[Tensor, Any, dict[str, Tensor]]:
        """Normalised global views (2B, C, H, W) to the teacher's probabilities of them, (2, B, K), and of the patches
        at `index` (P,) among the 2B * N, (P, K); and the mean logits (K,) that the centres are to follow."""
        temp, patch_temp = self.config.temps_at(t)
        (tokens,) = self.teacher.encode(views)
        logits = self.head("teacher", "cls")(tokens[:, 0])
        means, patch_probs = {"cls": logits.mean(0)}, None
        if index is not None:
            head = self.head("teacher", "patch")
            patches, needs_all = tokens[:, 1:].flatten(0, 1), self.config.centring == "mean"
            z = head.project(patches if needs_all else patches[index])
            patch_probs = self.assigned(head.logits(z[index] if needs_all else z), "patch", patch_temp)
            if needs_all:  # as released: of all patches' projections, since what follows is linear
                means["patch"] = head.logits(z.to(torch.promote_types(z.dtype, torch.float32)).mean(0))
        return self.assigned(logits, "cls", temp).unflatten(0, (2, -1)), patch_probs, means

    def note(self, means: dict[str, Tensor], count: int) -> None:
        """Keep the means over `count` views for `after_step`; those of several micro-batches add up."""
        if self.config.centring != "mean":
            return
        for name, mean in means.items():
            self._seen[name] = self._seen.get(name, 0) + count * mean
        self._num_seen += count

    @torch.no_grad()
    def energy(self, batch: CropsBatch, target_images: Tensor | None = None) -> Tensor:
        """(B,): cross-entropy of the teacher's view y, the second one or `target_images`, and the student's first view.

        Class tokens, nothing hidden, the teacher's last temperature: the same measure all through the run.
        """
        y = batch.second if target_images is None else target_images
        (target,) = self.teacher.encode(self.teacher.normalise(y))
        (context,) = self.student.encode(self.student.normalise(batch.images))
        probs = self.teacher_probs(self.head("teacher", "cls")(target[:, 0]), "cls", self.config.teacher_temp[1])
        return -(probs * self.student_logs(self.head("student", "cls")(context[:, 0]))).sum(-1)

    @torch.no_grad()
    def representations(self, batch: CropsBatch) -> dict[str, Tensor]:
        """As in `Method`; "context" and "target" are class tokens, "prediction" the student's probabilities (B, K)."""
        images = self.student.normalise(batch.images)
        context, target = (encoder.encode(images)[0][:, 0] for encoder in (self.student, self.teacher))
        logs = self.student_logs(self.head("student", "cls")(context))
        return {"context": context, "target": target, "prediction": logs.exp()}

    @torch.no_grad()
    def after_step(self, t: float) -> None:
        """Centres follow the means over the step's batch on all ranks, then the teacher follows the student.

        A mean that is not finite moves no centre; the student is finite always (see `Optimizer`).
        """
        for name, total in sorted(self._seen.items()):
            centre = self.centres.get_buffer(name)
            mean = mean_over_ranks(total / self._num_seen).to(centre.dtype)
            followed = centre.lerp(mean, 1 - self.config.centre_momentum)
            centre.copy_(torch.where(mean.isfinite().all(), followed, centre))
        forget(self)
        course = cosine if self.config.momentum_schedule == "cosine" else linear
        weight = 1 - course(t, *self.config.momentum)
        for teacher, student in ((self.teacher, self.student), (self.teacher_heads, self.student_heads)):
            torch._foreach_lerp_(list(teacher.parameters()), list(student.parameters()), weight)


def forget(method: Any, *unused: Any) -> None:
    """What was seen before a step, or before other weights were loaded, moves no centre after it."""
    method._seen, method._num_seen = {}, 0
