"""What `auto` chose and why, told with what the user's own settings make of it."""

from __future__ import annotations

import math
from dataclasses import dataclass

from rich.console import Console

from openjepa import distributed
from openjepa.config import differences, to_dict
from openjepa.masking.rivals import Random
from openjepa.methods.ijepa import IJEPAConfig
from openjepa.training.recipe import Recipe

NAME = "auto"


@dataclass(frozen=True)
class Choice:
    """A recipe, and why it is this one."""

    recipe: Recipe
    reasons: tuple[str, ...]
    """Of crops and encoder; or where the recipe comes from."""
    seen: float | None = None
    """Images that the run will see; None where it was chosen before."""
    why_batch: str = ""
    why_rate: str = ""

    def told(self, final: Recipe | None = None) -> list[str]:
        """A line each: crops, encoder, batch, masks, the course of the run; of `final`, where flags changed the recipe,
        with the reasons for what they left alone."""
        final = final or self.recipe
        lines = [*self.reasons, self._batch(final), self._masks(final), course(final)]
        own = own_settings(self.recipe, final)
        return [line for line in lines if line] + ([f"as you set it: {'; '.join(own)}"] if own else [])

    def tell(self, final: Recipe | None = None) -> None:
        """Print them, on one process."""
        if distributed.start(self.recipe.speed.device).is_first:
            for line in self.told(final):
                Console(highlight=False).print(f"{NAME}: {line}", markup=False, soft_wrap=True)

    def _batch(self, final: Recipe) -> str:
        size, rate = final.batch_size, final.optim.lr
        steps = "" if self.seen is None else f", {self.seen / size:,.0f} steps or so"
        why_batch = self.why_batch if size == self.recipe.batch_size else ""
        why_rate = self.why_rate if rate == self.recipe.optim.lr else ""
        return f"batches of {size}{steps}{because(why_batch)}; learning rate {rate:.2g}{because(why_rate)}"

    def _masks(self, final: Recipe) -> str:
        method = final.method
        if not isinstance(method, IJEPAConfig) or not isinstance(method.masking, Random):
            return ""  # the user's own masks, and told among the user's settings
        num_patches = math.prod(method.encoder.grid)
        context = num_patches - round(method.masking.scale * num_patches)
        is_known = self.seen is not None  # of a run that goes on, they may be the user's
        chosen = self.recipe.method
        is_ours = is_known and isinstance(chosen, IJEPAConfig) and method.masking == chosen.masking
        why = "on CIFAR-10 a point above blocks by a linear probe, and less to compute than with more context"
        return f"context of {context} of the {num_patches} patches, the others scattered targets" + because(
            why if is_ours else ""
        )


def because(why: str) -> str:
    """A reason in brackets, or nothing."""
    return f" ({why})" if why else ""


def course(recipe: Recipe) -> str:
    """How rate, target momentum and anti-collapse term change over the run."""
    method, optim = recipe.method, recipe.optim
    parts = [f"learning rate up for {optim.warmup:.0%} of the run, then down a cosine"]
    if isinstance(method, IJEPAConfig):
        first, last = method.momentum
        parts.append(f"target momentum {first:.4f} to {last:.4f}")
        first, last = method.regulariser_weight
        parts += [] if method.regulariser == "none" else [f"anti-collapse term {first:g} to {last:g}"]
    return "; ".join(parts)


def own_settings(chosen: Recipe, final: Recipe) -> list[str]:
    """'name: chosen -> set' of what the user's settings changed, besides the length; other masks as a whole."""
    before, after = ({**to_dict(recipe), "length": None} for recipe in (chosen, final))
    masks = [recipe["method"].pop("masking", {}) for recipe in (before, after)]
    own = differences(before, after)
    if masks[0] == masks[1]:
        return own
    if masks[0].get("kind") == masks[1].get("kind"):
        return own + [f"method.masking.{line}" for line in differences(*masks)]
    assert isinstance(chosen.method, IJEPAConfig)
    assert isinstance(final.method, IJEPAConfig)
    return [*own, f"method.masking: {chosen.method.masking} -> {final.method.masking}"]
