"""The table of what can be wrong with a run: what it means, what to try with which flag, and when to stop."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from losses import METHODS


@dataclass(frozen=True)
class Remedy:
    """What to try: a flag as it is typed, and why; has: whether settings have it already."""

    flag: str
    why: str
    has: Callable[[Mapping[str, Any]], bool] = lambda settings: False


@dataclass(frozen=True)
class Illness:
    """A row of FINDINGS: its title, what it means, what to try in this order, and when to stop or what to keep."""

    title: str
    meaning: str
    remedies: tuple[Remedy, ...] = ()
    stop: str = ""


@dataclass(frozen=True)
class Finding:
    """What was found in a run; evidence: numbers with their steps; sure: "sure", "likely" or "perhaps"."""

    name: str
    sure: str
    evidence: tuple[str, ...]
    advice: tuple[str, ...] = ()
    stop: str = ""

    @property
    def title(self) -> str:
        """In a few words."""
        return FINDINGS[self.name].title

    @property
    def meaning(self) -> str:
        """In a sentence."""
        return FINDINGS[self.name].meaning

    @property
    def is_ill(self) -> bool:
        """Whether something is to be done."""
        return self.name not in ("healthy", "too-early", "unknown")


def _penalised(settings: Mapping[str, Any]) -> bool:
    weights = settings.get("penalty_weights")
    return bool(set(settings.get("penalty") or ()) | set(weights if isinstance(weights, dict) else ()))


def _method_in(*names: str) -> Callable[[Mapping[str, Any]], bool]:
    return lambda settings: settings.get("method") in names


def _still(settings: Mapping[str, Any]) -> bool:
    return settings.get("beta1") == 0 or settings.get("optimizer") == "RMSprop"


def _not_smooth(settings: Mapping[str, Any]) -> bool:
    row = METHODS.get(str(settings.get("method")))
    return row is None or row.d_smooth is None or bool(settings.get("label_smoothing"))


R1 = Remedy(
    "--penalty r1",
    "holds D's slope at the data",
    lambda s: _penalised(s) or s.get("method") in ("wgan", "wgan-gp"),
)
SPECTRAL = Remedy(
    "--spectral_norm_d",
    "bounds D's slope everywhere",
    lambda s: bool(s.get("spectral_norm_d")) or s.get("method") in ("wgan", "wgan-gp"),
)
WGAN_GP = Remedy(
    "--method wgan-gp --optimizer Adam --train_g_interval 5 --beta1 0 --beta2 0.9",
    "its loss cannot saturate",
    _method_in("wgan-gp"),
)
ADA = Remedy(
    "--augment ada",
    "shows D every picture in many ways, as few as they are",
    lambda s: bool(s.get("augment")),
)

FINDINGS = {
    "too-early": Illness(
        "Too early to say", "Every generator begins with one grey picture: wait for more steps.",
    ),
    "unknown": Illness(
        "Nothing to judge by", "There are neither logged losses nor samples here.",
    ),
    "healthy": Illness(
        "Healthy", "No sign of trouble in what was logged and drawn. That is no verdict on how good the pictures are.",
        stop="Go on while a score over enough samples (--eval_interval) improves; stop when it has not for as long as "
        "it took to improve before.",
    ),
    "rate-zero": Illness(
        "A network does not learn: its learning rate is 0",
        "The other one plays against a network that never moves.",
        stop="Stop now: nothing is learned.",
    ),
    "diverging": Illness(
        "Diverging: numbers that are not finite, or explode",
        "Gradients or losses are not finite, and such updates are left out; or they are larger by orders of magnitude.",
        (
            Remedy("--mixed_precision bf16", "fp16 ends at 65,504", lambda s: s.get("mixed_precision") != "fp16"),
            Remedy("--beta1 0", "less momentum in a game that turns", _still),
            R1,
        ),
        "Stop, and go on from a checkpoint before it began. If the network is your own, look for a logarithm, a root "
        "or a division that can meet 0.",
    ),
    "d-lost": Illness(
        "D has lost: it cannot tell reals from fakes, D(x) = D(G(z))",
        "What G learns from D is noise; a low loss of G means only that it fools a D that knows nothing.",
        (
            Remedy("--train_g_interval 5", "five updates of D for one of G",
                   lambda s: (s.get("train_g_interval") or 1) >= 5),
            Remedy("--method wgan-gp --optimizer Adam --beta1 0 --beta2 0.9", "no clipped weights",
                   lambda s: s.get("method") != "wgan"),
        ),
        "Stop unless the pictures are as good as you need: they will not get better.",
    ),
    "vanishing-gradient": Illness(
        "D has won: the gradient of G vanishes",
        "D separates reals and fakes perfectly, so that nothing says where G should go (arXiv:1701.04862).",
        (
            R1, SPECTRAL,
            Remedy("--label_smoothing 0.1", "D is never quite sure", _not_smooth),
            WGAN_GP,
            Remedy("--method gan", "its G has a gradient where it loses",
                   lambda s: s.get("method") != "gan-saturating"),
        ),
        "Stop: a G that gets no gradient seldom comes back by itself.",
    ),
    "mode-collapse": Illness(
        "Mode collapse: G draws few different pictures",
        "Other latents give the same, or nearly; G has found what D falls for, and D has forgotten the rest.",
        (
            R1, WGAN_GP, SPECTRAL,
            Remedy("--d_kwargs minibatch_stddev=True", "D sees how varied a batch is",
                   lambda s: bool((s.get("d_kwargs") or {}).get("minibatch_stddev"))),
        ),
        "A collapsed run rarely comes back: take a checkpoint from before it, or begin anew.",
    ),
    "overfitting": Illness(
        "D knows its images by heart",
        "It is ever surer of the reals because it remembers them, and says less and less of what is wrong with fakes.",
        (
            ADA,
            Remedy("--flip", "twice as many images, where mirrored ones are possible", lambda s: bool(s.get("flip"))),
            R1,
        ),
        "Take the checkpoint of the best score (--checkpoint best of the tools); more steps make it worse.",
    ),
    "washed-out": Illness(
        "Washed-out or tinted pictures: not the colours of the data",
        "Brightness, contrast or colour of the samples are not those of the images.",
        (
            Remedy("--norm_d none", "batch norm in D forgets how bright a picture was",
                   lambda s: s.get("norm_d") != "batch"),
            Remedy("--augment ada --ada_pipe bg", "without colour transforms, which leak at a high p",
                   lambda s: "ada" not in (s.get("augment") or ()) or s.get("ada_pipe") == "bg"),
        ),
        "Look at samples/real.png, the images as training sees them. A network of your own: its last layer must reach "
        "from -1 to 1 (tanh, or nothing), and D's first convolution takes no batch norm.",
    ),
    "unlearned": Illness(
        "The samples are not like the data",
        "After all these steps they are noise or blurs, without one of the usual reasons in the curves.",
        (
            Remedy("--preset stylegan2", "settings that are known to work", lambda s: s.get("model") == "stylegan2"),
        ),
        "Go on only while the grids still get better.",
    ),
}  # fmt: skip
