"""What can be seen of a representation without labels: rank, spread, likeness, and the energy gap."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from openjepa.data.loader import Steps
from openjepa.data.source import Source
from openjepa.measure.spectrum import auroc, effective_rank, feature_std, mean_cosine
from openjepa.methods.base import Batch, Method
from openjepa.randomness import key

CHUNK = 64  # images a pass, so that judging never needs more memory than training


class Health:
    """Measures a method on one batch of unlabelled images that stays the same for the whole run."""

    def __init__(self, source: Source, method: Method, num_images: int, seed: int) -> None:
        # a seed of its own: the same images and masks as no training step
        own_seed = key(seed, "health") % 2**31
        count = num_images if source.is_sequential else min(num_images, len(source))
        self.loaded = Steps(source, method.views, seed=own_seed, batch_size=count)[0]
        self.batch: Batch = self.loaded.batch

    @torch.no_grad()
    def measure(self, method: Method, device: torch.device) -> dict[str, float]:
        """Per representation (context, target, prediction) its rank, std and cosine; and the energies.

        `energy_gap` is 1 - (energy of true pairs / energy of pairs whose target comes from another image): 0
        when the image does not matter to the prediction, near 1 when it is all that matters. `energy_auroc`
        is the share of (true, false) pairs that the energy tells apart; 0.5 is chance.
        """
        features: dict[str, list[Tensor]] = {}
        for part in self.batch.split(CHUNK):
            for name, value in method.representations(part.to(device)).items():
                features.setdefault(name, []).append(value.float().cpu())
        found: dict[str, float] = {}
        for name, values in features.items():
            pooled = torch.cat(values)
            if not torch.isfinite(pooled).all():
                found |= {f"rank_{name}": math.nan, f"std_{name}": math.nan, f"cosine_{name}": math.nan}
                continue
            found[f"rank_{name}"] = effective_rank(pooled)
            found[f"std_{name}"] = feature_std(pooled)
            found[f"cosine_{name}"] = mean_cosine(pooled)
        true_energy, false_energy = self.energies(method, device)
        found["energy_true"] = float(true_energy.mean())
        found["energy_false"] = float(false_energy.mean())
        # both zero is the purest collapse: no gap
        found["energy_gap"] = 1 - found["energy_true"] / max(found["energy_false"], 1e-12)
        is_finite = bool((true_energy + false_energy).isfinite().all())
        found["energy_auroc"] = auroc(true_energy, false_energy) if is_finite else math.nan
        return found

    @torch.no_grad()
    def energies(self, method: Method, device: torch.device) -> tuple[Tensor, Tensor]:
        """(P,) float64 of true pairs, and of pairs whose target comes from another image."""
        true, false = [], []
        images_of_others = self.batch.partners.roll(1, dims=0).split(CHUNK)
        for part, others in zip(self.batch.split(CHUNK), images_of_others, strict=True):
            batch = part.to(device)
            true.append(method.energy(batch).flatten().cpu())
            false.append(method.energy(batch, target_images=others.to(device)).flatten().cpu())
        return torch.cat(true).double(), torch.cat(false).double()
