"""What a bad run is, and what is said of it.

A step of a network is skipped where its gradient or its loss is not finite. Training has diverged after MAX_BAD_STEPS
skipped ones in a row, at the end of a run that has no others, and wherever a weight, an average or a picture is not
finite; it goes back to a checkpoint then, MAX_ROLLBACKS times at most. A run that ends on a skipped step, unless for
fp16's scaler, or with losses out of bounds, has not learned.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from math import isfinite

from errors import NotFinite, Unlearned, UserError
from settings import TrainConfig
from training.network import Network

MAX_BAD_STEPS = 20  # in a row, before the loop goes back to a checkpoint
MAX_ROLLBACKS = 3
MAX_LOSS = 1e6
ADVICE = "try a lower --lr, another --method, or --mixed_precision no"
# How a lack of memory reads: torch on CUDA, on MPS and on the CPU, and its libraries.
OUT_OF_MEMORY = ("out of memory", "can't allocate memory", "ALLOC_FAILED")


class Diverged(Exception):
    """Too many skipped steps in a row, or something that is not finite."""


@contextmanager
def diverging() -> Iterator[None]:
    """What is not finite beside training is training's Diverged."""
    try:
        yield
    except NotFinite as error:
        raise Diverged(str(error)) from None


def skipped_lately(networks: Mapping[str, Network]) -> str | None:
    """Which network's steps are being skipped, None where all move; waits for the device."""
    for name, network in networks.items():
        if n := int(network.bad_run):
            return f"the last {n} step(s) of {name} skipped: gradients or losses not finite"
    return None


def check_bad_runs(networks: Mapping[str, Network], ended: bool) -> None:
    """Diverged after too many skipped steps in a row, and at the end of a run after nothing else."""
    for network in networks.values():
        bad = int(network.bad_run)
        if bad >= MAX_BAD_STEPS or (ended and bad and bad == network.tried):
            raise Diverged(skipped_lately(networks))


@dataclass
class Rollbacks:
    """How often training went back; at: where it had diverged; to: the checkpoint it took."""

    n: int = 0
    at: int | None = None
    to: int = 0

    def limit(self, step: int, newest: int | None) -> int:
        """The step that the next checkpoint to take is older than: after a rollback without a checkpoint beyond where
        it had diverged, older than that of the last time."""
        in_a_row = self.at is not None and (newest is None or newest <= self.at)
        return min(step, self.to) if in_a_row else step

    def note(self, at: int, to: int) -> None:
        """One more."""
        self.n, self.at, self.to = self.n + 1, at, to


def unlearned(values: Mapping[str, float], *, scaled: bool = False) -> str | None:
    """Why these last logged values are of a run that ended without learning, None where losses are within bounds, and
    gradients finite: a network's last step was skipped otherwise. scaled: by fp16's scaler, which skips some when well.

    A loss is about as large as logits are. No target bounds those of a WGAN critic, which may be large and well; but at
    MAX_LOSS float32 tells apart only what differs by 0.06, and most of what an update changes is lost in rounding.
    """
    seen = []
    for name, value in values.items():
        # of the phase itself: what a lazy penalty says may be long past
        norm = name.replace("loss/", "grad_norm/")
        if not name.startswith("loss/"):
            continue
        if not abs(value) <= MAX_LOSS:
            seen.append(f"{name} {value:.3g}, not within {MAX_LOSS:.0e}")
        elif not scaled and not isfinite(values.get(norm, 0.0)):
            seen.append(f"{norm} {values[norm]:.3g}, its last step skipped")
    return f"training ended without learning: {'; '.join(seen)}; {ADVICE}" if seen else None


def given_up(
    step: int, where: str, reason: str, values: Mapping[str, float], rates: Mapping[str, float]
) -> Unlearned:
    """The error that ends a run which diverges again and again; where: after how many rollbacks.

    values: means over all processes, which then end with one and the same line.
    """
    seen = [f"{k} {v:.3g}" for k, v in values.items() if k.startswith("loss/")]
    seen += [f"lr of {name} {rate:.3g}" for name, rate in rates.items()]
    return Unlearned(f"training diverged at step {step} {where}: {reason}; {', '.join(seen)}; {ADVICE}")


# -- memory ------------------------------------------------------------------------------------------------------------


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error means that memory ended, of whatever device."""
    if isinstance(error, MemoryError):
        return True
    return isinstance(error, RuntimeError) and any(words in str(error) for words in OUT_OF_MEMORY)


@contextmanager
def memory_told(text: Callable[[], str]) -> Iterator[None]:
    """One line where memory ends: out of memory, and text()."""
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        raise UserError(f"out of memory {text()}") from None


def memory_advice(config: TrainConfig, n_processes: int, step: int, last_good: str, resumable: bool) -> str:
    """Where memory ended in training, and which flags spare some: of a resumed run all but the batch."""
    share = config.batch_size // n_processes
    finer = next((k for k in range(config.accumulate + 1, share + 1) if share % k == 0), None)
    cut = f"--accumulate {finer} (same results for networks without batch statistics), " if finer else ""
    flags = f"{cut}--mixed_precision bf16 or --data_device cpu"
    if resumable:
        return f"at step {step}: {last_good} and {flags}; another --batch_size needs a new run"
    return f"at step {step}: {last_good}; start anew with a smaller --batch_size, {flags}"
