"""Which networks, how they see labels, and how they grow."""

from dataclasses import dataclass
from typing import Any, ClassVar

from errors import UserError, blaming_user
from modelling import (
    CONDITIONS,
    MODELS,
    check_condition,
    check_sees_labels,
    check_settings,
    find_model,
    network_classes,
)
from modelling.conditioning import CLASS_HEADS, CONDITIONAL_NORMS, ClassHead
from modelling.layers import NORMS
from settings.section import Section, flag

AC_WEIGHTS = ("ac_weight_d", "ac_weight_fake", "ac_weight_g")  # in the section of losses


def names_where(attribute: str, sep: str = ", ") -> str:
    """The models whose row has a truthy attribute, for messages."""
    return sep.join(name for name, row in MODELS.items() if getattr(row, attribute))


@dataclass(frozen=True)
class ModelSettings(Section):
    """The networks."""

    title: ClassVar[str] = "model"

    model: str = flag(
        "dcgan",
        "architecture, or the path of a .py file with one's own",
        choices=lambda: MODELS,
        accepts=lambda name: name.endswith(".py"),
        usual=True,
    )
    z_dim: int = flag(128, "length of the latent vector, drawn from N(0, 1)", least=1, usual=True)
    conditional: bool = flag(False, "give G and D the labels", usual=True)
    condition_g: str | None = flag(
        None, "how G sees the labels (default: the model's way)", choices=lambda: CONDITIONS["g"]
    )
    condition_d: str | None = flag(
        None, "how D sees the labels (default: the model's way)", choices=lambda: CONDITIONS["d"]
    )
    norm_g: str | None = flag(None, "normalisation in G (default: the model's)", choices=lambda: NORMS)
    norm_d: str | None = flag(
        None, "normalisation in D (default: right for the method)", choices=lambda: NORMS
    )
    spectral_norm_g: bool | None = flag(None, "spectral norm on every layer of G (default: the model's)")
    spectral_norm_d: bool | None = flag(None, "spectral norm on every layer of D (default: the model's)")
    instance_noise_steps: int | None = flag(
        None, "noise in D falls linearly to 0 over so many steps", least=1
    )
    g_kwargs: dict[str, Any] = flag(dict, "settings of G's own, KEY=VALUE ..., e.g. width=96", usual=True)
    d_kwargs: dict[str, Any] = flag(
        dict, "settings of D's own, e.g. dropout=0.3 noise_std=0.1 activation=selu", usual=True
    )
    init_from: str | None = flag(
        None, "run, generator/ folder or checkpoint whose weights and averages training starts with"
    )
    freeze_d: int = flag(0, "so many layers of D, those nearest the image, are not trained", least=0)

    def seen_by(self, side: str) -> str | None:
        """How G or D ("g", "d") sees labels: as asked, else the model's way; None where it sees none."""
        asked, ways = getattr(self, f"condition_{side}"), find_model(self.model).conditions(side)
        if not self.conditional or not ways:
            return None
        return ways[0] if asked is None else asked

    def class_head(self) -> ClassHead | None:
        """How class logits enter D's output; None where D has none."""
        return CLASS_HEADS.get(self.seen_by("d"))

    def classifies(self) -> bool:
        """Whether D tells classes, which losses of classes take."""
        head = self.class_head()
        return head is not None and head.classifies

    def check(self) -> None:
        """Labels, norms, noise and the networks' own settings as the model knows them."""
        with blaming_user():
            if self.conditional:
                check_sees_labels(self.model)
            for side in ("g", "d"):
                if self.conditional and (given := getattr(self, f"condition_{side}")) is not None:
                    check_condition(self.model, side, given)
        for side, network in network_classes(self.model).items():
            check_settings(self.model, network, getattr(self, f"{side}_kwargs"), f"--{side}_kwargs")
            if "norm" in getattr(self, f"{side}_kwargs") and getattr(self, f"norm_{side}") is not None:
                raise UserError(f"--norm_{side} and --{side}_kwargs norm= are the same setting: give one")
        way = self.seen_by("g")
        if way in CONDITIONAL_NORMS and (self.norm_g is not None or "norm" in self.g_kwargs):
            raise UserError(f"--condition_g {way} is the norm of G: leave out --norm_g")
        if self.instance_noise_steps is not None and not self.d_kwargs.get("noise_std"):
            raise UserError("--instance_noise_steps anneals nothing: add --d_kwargs noise_std=0.1")


@dataclass(frozen=True)
class GrowingSettings(Section):
    """Growing of the models that grow."""

    title: ClassVar[str] = "growing"

    no_grow: bool = flag(False, "train a growing model at its full size from the start")
    stable_kimg: float | None = flag(
        None, "thousands of images for which each size is trained as it is (default: 600)"
    )
    fade_kimg: float | None = flag(
        None, "thousands of images in which each larger size is faded in (default: 600)"
    )
