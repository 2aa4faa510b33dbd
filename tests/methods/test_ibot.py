"""iBOT, against one view, one patch and one prototype at a time, in float64."""

from __future__ import annotations

import math
import pickle
from dataclasses import replace

import numpy as np
import pytest
import torch

from openjepa.config import from_dict, to_dict
from openjepa.data.augment import Augment
from openjepa.data.views import Crop
from openjepa.errors import ConfigError
from openjepa.masking import Blockwise
from openjepa.methods import IBOT, IBOTConfig
from openjepa.methods.prototypes import Head, HeadConfig, balanced
from openjepa.optim import OptimConfig, Optimizer
from openjepa.vision.vit import ViTConfig

NUM_IMAGES, NUM_PROTOTYPES = 3, 7
ENCODER = ViTConfig((16, 32), 4, width=16, depth=3, heads=2, has_cls=True, pooling="cls")
TINY = IBOTConfig(
    encoder=ENCODER,
    head=HeadConfig(hidden=12, bottleneck=5, num_prototypes=NUM_PROTOTYPES),
    num_locals=2,
    local_size=(8, 12),
    masking=Blockwise(chance=0.6),
    drop_path=0.0,
    freeze_prototypes=0.1,
    temp_warmup=0.5,
)
PLAIN = Augment(jitter=0.0, grey=0.0, blur=0.0)
pytestmark = pytest.mark.usefixtures("float64")


def images_of(count, channels=3):
    rng = np.random.default_rng(0)
    return [rng.integers(0, 256, (40, 36 + i, channels), dtype=np.uint8) for i in range(count)]


def batch_of(method, count=NUM_IMAGES, first=0):
    images = enumerate(images_of(count, method.views.channels))
    samples = [method.views.sample(image, np.random.default_rng(i), None) for i, image in images]
    return method.views.collate(samples, seed=1, step=2, first=first)


def made(config, stir, count=NUM_IMAGES):
    """A method whose teacher is no longer its student, with centres, and a batch."""
    method = stir(IBOT(config))
    for centre in method.centres.buffers():
        centre.copy_(0.3 * torch.randn(len(centre)))
    return method, batch_of(method, count)


def slow_softmax(logits, temp):
    exponents = [math.exp(x / temp) for x in logits]
    return [e / sum(exponents) for e in exponents]


def slow_cross_entropy(teacher, centre, teacher_temp, student, student_temp):
    target = slow_softmax([x - c for x, c in zip(teacher, centre, strict=True)], teacher_temp)
    predicted = slow_softmax(student, student_temp)
    return -sum(p * math.log(q) for p, q in zip(target, predicted, strict=True))


def slow_head(head, token):
    """(D,) to a list of logits."""
    first, second, last = head.layers
    gelu = torch.nn.functional.gelu
    z = last(gelu(second(gelu(first(token)))))
    z = z / (z * z).sum().sqrt()
    scales = [1.0] * len(head.weight) if head.scale is None else head.scale.tolist()
    return [s * ((z * w).sum() / (w * w).sum().sqrt()).item() for w, s in zip(head.weight, scales, strict=True)]


def views_of(method, batch, i):
    """Normalised (1, C, h, w) views of image i, the global ones first; which patches are hidden in each."""
    n = method.config.num_locals
    images = [batch.images[i], batch.second[i], *batch.locals[i * n : (i + 1) * n]]
    views = [(image[None].double() / 255 - method.student.mean) / method.student.std for image in images]
    hidden = [None] * len(views) if batch.masks is None else [*batch.masks[i], *[None] * n]
    branches = [None] * len(views) if batch.branches is None else [x[None].double() for x in batch.branches[i]]
    return views, hidden, branches


@torch.no_grad()
def slow_losses(method, batch, temps):
    """(cls loss, patch loss), each a mean over images."""
    cls_losses, patch_losses = [], []
    centres = {name: centre.tolist() for name, centre in method.centres.named_buffers()}
    for i in range(len(batch.images)):
        views, hidden, branches = views_of(method, batch, i)
        teacher = [method.teacher.encode(view)[0][0] for view in views[:2]]
        student = []
        for view, mask, kept in zip(views, hidden, branches, strict=True):
            token = None if mask is None else (mask[None], method.mask_token)
            student.append(method.student.encode(view, hidden=token, branches=kept)[0][0])
        pairs = [(q, v) for q in range(2) for v in range(len(views)) if q != v]
        entropies = [
            slow_cross_entropy(
                slow_head(method.teacher_heads["cls"], teacher[q][0]), centres["cls"], temps[0],
                slow_head(method.student_heads["cls"], student[v][0]), method.config.student_temp,
            )
            for q, v in pairs
        ]  # fmt: skip
        cls_losses.append(sum(entropies) / len(pairs))
        kind = "cls" if method.config.shared_head else "patch"
        for q in range(2) if batch.masks is not None else ():
            entropies = [
                slow_cross_entropy(
                    slow_head(method.teacher_heads[kind], teacher[q][1 + n]), centres["patch"], temps[1],
                    slow_head(method.student_heads[kind], student[q][1 + n]), method.config.student_temp,
                )
                for n in hidden[q].nonzero()[:, 0].tolist()
            ]  # fmt: skip
            patch_losses.append(sum(entropies) / len(entropies) if entropies else 0.0)
    return tuple(sum(losses) / max(len(losses), 1) for losses in (cls_losses, patch_losses))


CASES = {
    "published": TINY,
    "two heads of free length": replace(TINY, shared_head=False, head=replace(TINY.head, norm_last_layer=False)),
    "drop path": replace(TINY, drop_path=0.6),
    "no locals": replace(TINY, num_locals=0),
    "weights": replace(TINY, cls_weight=0.3, patch_weight=2.0, student_temp=0.2, teacher_patch_temp=(0.05, 0.1)),
    "DINO": replace(TINY, patch_weight=0.0),
}


@pytest.mark.parametrize("name", CASES)
def test_the_losses_are_means_over_pairs_and_over_hidden_patches(stirred, name):
    config = CASES[name]
    method, batch = made(config, stirred)
    for t, temps in ((0.25, (0.055, 0.075 if name == "weights" else 0.055)), (0.8, config.temps_at(1.0))):
        cls_loss, patch_loss = slow_losses(method, batch, temps)
        outputs = method(batch, t)
        assert outputs["cls_loss"].item() == pytest.approx(cls_loss, rel=1e-9)
        expected = config.cls_weight * cls_loss + config.patch_weight * patch_loss
        assert outputs["loss"].item() == pytest.approx(expected, rel=1e-9)
        if name == "DINO":
            assert set(outputs) == {"loss", "cls_loss"}
        else:
            assert 0 < batch.masks.any(2).sum() < batch.masks.any(2).numel()  # an image without hidden patches
            assert outputs["patch_loss"].item() == pytest.approx(patch_loss, rel=1e-9)


def slow_balanced(rows, rounds):
    """Sinkhorn and Knopp, a number at a time."""
    for _ in range(rounds):
        shares = [sum(row[k] for row in rows) for k in range(len(rows[0]))]
        rows = [[p / share for p, share in zip(row, shares, strict=True)] for row in rows]
        rows = [[p / sum(row) for p in row] for row in rows]
    return rows


def test_sinkhorn_balances_the_teachers_answers_over_the_batch(stirred):
    probs = torch.softmax(3 * torch.randn(40, 5), -1)
    torch.testing.assert_close(balanced(probs), torch.tensor(slow_balanced(probs.tolist(), 3)), rtol=1e-12, atol=0)
    settled = balanced(probs, rounds=200)
    torch.testing.assert_close(settled.sum(0), torch.full((5,), 40 / 5), rtol=1e-6, atol=0)
    torch.testing.assert_close(settled.sum(1), torch.ones(40), rtol=1e-12, atol=0)
    assert balanced(probs[:0]).shape == (0, 5)
    one_sided = balanced(torch.softmax(torch.tensor([[9.0, 0, 0], [8.0, 1, 0], [9.0, 0, 1]]) / 0.04, -1))
    assert one_sided.isfinite().all()

    config = replace(TINY, centring="sinkhorn")
    method, batch = made(config, stirred)
    views = [view for q in range(2) for i in range(NUM_IMAGES) for view in views_of(method, batch, i)[0][q : q + 1]]
    with torch.no_grad():
        logits = [slow_head(method.teacher_heads["cls"], method.teacher.encode(view)[0][0][0]) for view in views]
    centre = method.centres.get_buffer("cls").tolist()
    temp, patch_temp = config.temps_at(0.5)
    rows = [slow_softmax([x - c for x, c in zip(row, centre, strict=True)], temp) for row in logits]
    hidden = batch.masks.transpose(0, 1).flatten().nonzero()[:, 0]
    probs, patch_probs, _ = method.targets(
        method.student.normalise(torch.cat([batch.images, batch.second])), hidden, 0.5
    )
    torch.testing.assert_close(probs.flatten(0, 1), torch.tensor(slow_balanced(rows, 3)), rtol=1e-8, atol=1e-12)
    with torch.no_grad():
        tokens = [patch for view in views for patch in method.teacher.encode(view)[0][0][1:]]
        logits = [slow_head(method.teacher_heads["cls"], tokens[n]) for n in hidden.tolist()]
    centre = method.centres.get_buffer("patch").tolist()
    rows = [slow_softmax([x - c for x, c in zip(row, centre, strict=True)], patch_temp) for row in logits]
    torch.testing.assert_close(patch_probs, torch.tensor(slow_balanced(rows, 3)), rtol=1e-8, atol=1e-12)


def test_without_the_patch_loss_it_is_dino(stirred):
    """Nothing is hidden, and nothing is there that only patches need."""
    method, batch = made(CASES["DINO"], stirred)
    assert batch.masks is None
    names = set(dict(method.named_parameters())) | set(dict(method.named_buffers()))
    assert not any("mask_token" in name or "patch" in name for name in names)
    ibot, _ = made(replace(TINY, masking=Blockwise(chance=0.0)), stirred)
    ibot.load_state_dict({**ibot.state_dict(), **method.state_dict()})
    unmasked = batch_of(ibot)
    assert not unmasked.masks.any()
    assert ibot(unmasked, 0.3)["loss"].item() == pytest.approx(method(batch, 0.3)["loss"].item(), rel=1e-12)
    assert ibot(unmasked, 0.3)["patch_loss"] == 0


@pytest.mark.parametrize("name", ["published", "two heads of free length", "DINO"])
def test_every_trainable_parameter_has_a_gradient_even_without_a_hidden_patch(stirred, name):
    for config in (CASES[name], replace(CASES[name], masking=Blockwise(chance=0.0))):
        method, batch = made(config, stirred)
        method(batch, 0.5)["loss"].backward()
        for key, parameter in method.named_parameters():
            if key.startswith("teacher"):
                assert not parameter.requires_grad
                assert parameter.grad is None
            else:
                assert parameter.grad is not None, key  # data parallelism waits for it
                is_idle = "mask_token" in key or "patch" in key
                assert parameter.grad.abs().max() > 0 or (is_idle and config.masking.chance == 0), key


def test_the_prototypes_are_frozen_first_and_their_averages_do_not_age(stirred):
    method, batch = made(CASES["two heads of free length"], stirred)
    optimizer = Optimizer(method, OptimConfig(lr=1e-3, lr_start=1e-3))
    for t, is_frozen in ((0.0, True), (0.0999, True), (0.1, False), (0.9, False)):
        before = {name: tensor.clone() for name, tensor in method.student_heads.state_dict().items()}
        loss = method(batch, t)["loss"]
        loss.backward()
        optimizer.step(t, loss, method.frozen(t))
        assert any(name.endswith("cls.weight/exp_avg") for name in optimizer.tensors()) != is_frozen
        for name, tensor in method.student_heads.state_dict().items():
            is_prototype = name.split(".", 1)[1] in ("weight", "scale")
            assert torch.equal(tensor, before[name]) == (is_frozen and is_prototype), name
    method, batch = made(CASES["two heads of free length"], stirred)
    assert method(batch, 0.0)["loss"].item() == pytest.approx(slow_sum(method, batch, (0.04, 0.04)), rel=1e-9)


def slow_sum(method, batch, temps):
    return sum(slow_losses(method, batch, temps))


@pytest.mark.parametrize("size", [1, 2, 4])
@pytest.mark.parametrize("name", ["published", "two heads of free length"])
def test_the_parts_of_a_batch_add_up_to_it(stirred, name, size):
    method, batch = made(CASES[name], stirred, count=5)
    trainable = [parameter for parameter in method.parameters() if parameter.requires_grad]
    outputs = method(batch, 0.5)
    outputs["loss"].backward()
    whole, total = [parameter.grad.clone() for parameter in trainable], {}
    means = {key: value / method._num_seen for key, value in method._seen.items()}
    method.load_state_dict(method.state_dict())  # forgets what it has seen
    method.zero_grad()
    for part in batch.split(size):
        share, parts = len(part.images) / 5, method(part, 0.5)
        (parts["loss"] * share).backward()
        total = {key: total.get(key, 0) + share * value.item() for key, value in parts.items()}
    assert total == {key: pytest.approx(value.item(), rel=1e-10) for key, value in outputs.items()}
    for expected, parameter in zip(whole, trainable, strict=True):
        torch.testing.assert_close(parameter.grad, expected, rtol=1e-8, atol=1e-13)
    for key, mean in means.items():
        torch.testing.assert_close(method._seen[key] / method._num_seen, mean, rtol=1e-10, atol=1e-13)


@pytest.mark.parametrize("name", ["published", "two heads of free length"])
def test_centres_follow_the_teachers_mean_logits(stirred, name):
    method, batch = made(replace(CASES[name], centre_momentum=0.8), stirred)
    before = {key: centre.clone() for key, centre in method.centres.named_buffers()}
    method(batch, 0.5)
    assert all(torch.equal(centre, before[key]) for key, centre in method.centres.named_buffers())
    kind = "cls" if method.config.shared_head else "patch"
    views = [view for i in range(NUM_IMAGES) for view in views_of(method, batch, i)[0][:2]]
    with torch.no_grad():
        tokens = [method.teacher.encode(view)[0][0] for view in views]
        cls_logits = [slow_head(method.teacher_heads["cls"], x[0]) for x in tokens]
        patch_logits = [slow_head(method.teacher_heads[kind], patch) for x in tokens for patch in x[1:]]
    method.after_step(0.5)
    for key, logits in (("cls", cls_logits), ("patch", patch_logits)):
        expected = 0.8 * before[key] + 0.2 * torch.tensor(logits).mean(0)
        torch.testing.assert_close(method.centres.get_buffer(key), expected, rtol=1e-9, atol=1e-12)
    after = {key: centre.clone() for key, centre in method.centres.named_buffers()}
    method.after_step(0.6)  # nothing was seen since
    assert all(torch.equal(centre, after[key]) for key, centre in method.centres.named_buffers())


def test_nothing_moves_a_centre_that_is_not_a_training_step(stirred):
    method, batch = made(TINY, stirred)
    before = {key: centre.clone() for key, centre in method.centres.named_buffers()}
    with torch.no_grad():
        method(batch, 0.5)
    method.energy(batch)
    method.representations(batch)
    method.after_step(0.5)
    assert all(torch.equal(centre, before[key]) for key, centre in method.centres.named_buffers())
    fixed, batch = made(replace(TINY, centring="none"), stirred)
    before = {key: centre.clone() for key, centre in fixed.centres.named_buffers()}
    fixed(batch, 0.5)
    fixed.after_step(0.5)
    assert all(torch.equal(centre, before[key]) for key, centre in fixed.centres.named_buffers())


def test_what_is_not_finite_reaches_no_centre(stirred):
    method, batch = made(TINY, stirred)
    sound = method.teacher.norm.weight.clone()
    before = {key: centre.clone() for key, centre in method.centres.named_buffers()}
    method.teacher.norm.weight.data[0] = float("inf")
    assert not math.isfinite(method(batch, 0.5)["loss"].item())
    method.teacher.norm.weight.data.copy_(sound)
    method(batch, 0.5)  # a second micro-batch, which is sound
    method.after_step(0.5)
    assert all(torch.equal(centre, before[key]) for key, centre in method.centres.named_buffers())
    method(batch, 0.5)
    method.after_step(0.5)
    for key, centre in method.centres.named_buffers():
        assert centre.isfinite().all()
        assert not torch.equal(centre, before[key])


@pytest.mark.parametrize("schedule", ["cosine", "linear"])
def test_the_teacher_starts_as_a_copy_and_follows(stirred, schedule):
    method = IBOT(replace(TINY, momentum=(0.9, 1.0), momentum_schedule=schedule))
    sides = [(method.teacher, method.student), (method.teacher_heads, method.student_heads)]
    pairs = [pair for one, other in sides for pair in zip(one.parameters(), other.parameters(), strict=True)]
    assert all(torch.equal(teacher, student) for teacher, student in pairs)
    stirred(method)
    for t in (0.0, 0.25, 0.5, 1.0):
        risen = t if schedule == "linear" else (1 - math.cos(math.pi * t)) / 2
        momentum = 0.9 + 0.1 * risen
        before = [(teacher.clone(), student.clone()) for teacher, student in pairs]
        method.after_step(t)
        for (teacher, student), (old_teacher, old_student) in zip(pairs, before, strict=True):
            assert torch.equal(student, old_student)
            expected = momentum * old_teacher + (1 - momentum) * old_student
            torch.testing.assert_close(teacher, expected, rtol=0, atol=1e-14)


def test_temperatures_rise_and_stay():
    config = replace(TINY, teacher_temp=(0.04, 0.08), teacher_patch_temp=(0.1, 0.05), temp_warmup=0.4)
    for t, expected in ((0.0, (0.04, 0.1)), (0.2, (0.06, 0.075)), (0.4, (0.08, 0.05)), (1.0, (0.08, 0.05))):
        assert config.temps_at(t) == pytest.approx(expected)
    assert replace(config, temp_warmup=0.0).temps_at(0.0) == (0.08, 0.05)


@pytest.mark.parametrize("name", ["published", "drop path", "DINO"])
def test_energy_is_the_cross_entropy_of_two_views(stirred, name):
    method, batch = made(CASES[name], stirred)
    for others, y in ((None, batch.second), (batch.images.flip(0), batch.images.flip(0))):
        energies = method.energy(batch, others)
        assert energies.shape == (NUM_IMAGES,)
        for i in range(NUM_IMAGES):
            student = method.student(batch.images[i : i + 1])
            teacher = method.teacher(y[i : i + 1])
            expected = slow_cross_entropy(
                slow_head(method.teacher_heads["cls"], teacher.pooled[0]), method.centres.get_buffer("cls").tolist(),
                0.07, slow_head(method.student_heads["cls"], student.pooled[0]), 0.1,
            )  # fmt: skip
            assert energies[i].item() == pytest.approx(expected, rel=1e-9)


def test_true_and_false_pairs_have_their_y_from_the_same_views(stirred):
    method, batch = made(TINY, stirred)
    assert torch.equal(batch.partners, batch.second)
    assert torch.equal(method.energy(batch), method.energy(batch, batch.partners))


def test_representations_are_class_tokens_and_probabilities(stirred):
    method, batch = made(TINY, stirred)
    pooled = method.representations(batch)
    for i in range(NUM_IMAGES):
        image = method.student.normalise(batch.images[i : i + 1])
        context, target = (encoder.encode(image)[0][0, 0] for encoder in (method.student, method.teacher))
        torch.testing.assert_close(pooled["context"][i], context, rtol=0, atol=1e-12)
        torch.testing.assert_close(pooled["target"][i], target, rtol=0, atol=1e-12)
        expected = slow_softmax(slow_head(method.student_heads["cls"], context), 0.1)
        torch.testing.assert_close(pooled["prediction"][i], torch.tensor(expected), rtol=0, atol=1e-12)
    assert method.encoder is method.teacher
    assert method.context_encoder is method.student


def test_a_fresh_head_says_little_and_its_logits_are_cosines():
    head = Head(16, HeadConfig(hidden=32, bottleneck=8, num_prototypes=50))
    logits = head(torch.randn(20, 16))
    assert logits.abs().max() <= 1
    assert head.project(torch.randn(3, 4, 16)).norm(dim=-1).sub(1).abs().max() < 1e-9
    x = torch.randn(6, 8)
    torch.testing.assert_close(head.logits(x).mean(0), head.logits(x.mean(0)), rtol=0, atol=1e-12)
    assert head.to(torch.bfloat16)(torch.randn(2, 16).bfloat16()).dtype == torch.float32


def test_views_crop_augment_and_hide_by_address():
    whole = Crop(scale=(1.0, 1.0), aspect=(1.0, 1.0))
    config = replace(
        TINY, encoder=replace(ENCODER, image_size=(32, 32)), global_crop=whole, local_crop=whole, local_size=(32, 32),
        first_view=PLAIN, second_view=replace(PLAIN, solarise=1.0), local_view=replace(PLAIN, grey=1.0), drop_path=0.5,
    )  # fmt: skip
    views = pickle.loads(pickle.dumps(IBOT(config).views))
    image = np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8)
    sample = views.sample(image, np.random.default_rng(1), None)
    pixels = image.transpose(2, 0, 1)
    assert np.array_equal(sample[0], pixels)
    assert np.array_equal(sample[1], np.where(pixels < 128, pixels, 255 - pixels))
    assert sample[2].shape == (2, 3, 32, 32)
    assert (sample[2] == sample[2][:, :1]).all()
    assert sample[3].shape == (4, 3, 2)
    batch = views.collate([sample] * 4, seed=7, step=5, first=10)
    assert (batch.images.shape, batch.second.shape) == ((4, 3, 32, 32), (4, 3, 32, 32))
    assert (batch.locals.shape, batch.masks.shape, batch.branches.shape) == ((8, 3, 32, 32), (4, 2, 64), (4, 4, 3, 2))
    assert (batch.seed, batch.step) == (7, 5)
    expected = config.masking.sample((8, 8), seed=7, step=5, first=20, count=8)
    assert torch.equal(batch.masks.flatten(0, 1), expected)
    parts = [views.collate([sample] * 2, seed=7, step=5, first=first) for first in (10, 12)]
    assert torch.equal(torch.cat([part.masks for part in parts]), batch.masks)


def test_global_and_local_crops_are_of_their_scales():
    """On an image whose value is its column, a crop's spread is its width."""
    config = replace(TINY, encoder=replace(ENCODER, image_size=(32, 32)), local_size=(16, 16))
    config = replace(config, first_view=PLAIN, second_view=PLAIN, local_view=PLAIN)
    views = IBOT(config).views
    image = np.broadcast_to(np.arange(0, 256, dtype=np.uint8)[None, :, None], (256, 256, 3)).copy()
    samples = [views.sample(image, np.random.default_rng(i), None) for i in range(60)]
    widths = [np.ptp(view[0][0].astype(float)) / 256 for view in samples]
    local_widths = [np.ptp(crop[0].astype(float)) / 256 for sample in samples for crop in sample[2]]
    assert 0.35 < min(widths) < 0.6
    assert 0.1 < min(local_widths) < 0.25
    assert max(local_widths) < 0.6
    flips = [sample[0][0, 0, 0] > sample[0][0, 0, -1] for sample in samples]
    assert 15 < sum(flips) < 45


@pytest.mark.parametrize("channels", [1, 3, 5])
def test_other_channel_counts(channels):
    config = replace(TINY, encoder=replace(ENCODER, mean=(0.5,) * channels, std=(0.2,) * channels))
    if channels == 5:
        names = [mistake.split(":")[1].split()[0] for mistake in config.mistakes()]
        assert names == ["first_view", "second_view", "local_view"]
        with pytest.raises(ConfigError, match="1 or 3 channels"):
            IBOT(config)
        config = replace(config, first_view=PLAIN, second_view=PLAIN, local_view=PLAIN)
    method = IBOT(config)
    assert math.isfinite(method(batch_of(method), 0.5)["loss"].item())


def test_published_settings_are_the_defaults():
    config = IBOTConfig()
    assert config.mistakes() == []
    assert (config.head.hidden, config.head.bottleneck, config.head.num_prototypes) == (2048, 256, 8192)
    assert config.min_side() == max(config.global_crop.min_side((224, 224)), config.local_crop.min_side((96, 96)))
    assert replace(config, num_locals=0).min_side() == config.global_crop.min_side((224, 224))
    assert from_dict(IBOTConfig, to_dict(config)) == config


def test_all_mistakes_are_told_at_once_by_field():
    config = IBOTConfig(
        encoder=ViTConfig((32, 32), 4, width=16, depth=2, heads=2),
        head=HeadConfig(hidden=0, num_prototypes=1),
        masking=Blockwise(chance=2.0),
        global_crop=Crop(scale=(0.0, 2.0)),
        local_size=(10, 16),
        num_locals=-1,
        first_view=Augment(jitter=2.0),
        student_temp=0.0,
        teacher_temp=(0.0, 1.0),
        cls_weight=-1.0,
        momentum=(2.0, 1.0),
        temp_warmup=-0.1,
        drop_path=1.0,
    )
    fields = [
        "head.hidden",
        "head.num_prototypes",
        "global_crop.scale",
        "first_view.jitter",
        "num_locals",
        "local_size",
    ]
    fields += ["encoder.has_cls", "masking.chance", "cls_weight", "student_temp", "teacher_temp", "momentum"]
    fields += ["temp_warmup", "drop_path"]
    assert [mistake.split(" = ")[0] for mistake in config.mistakes()] == fields
    (nothing,) = replace(TINY, cls_weight=0.0, patch_weight=0.0).mistakes()
    assert "nothing is left to learn from" in nothing
    with pytest.raises(ConfigError) as caught:
        IBOT(config)
    assert caught.value.mistakes == config.mistakes()
