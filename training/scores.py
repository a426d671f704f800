"""Scores along a run: evaluated now and then, the best one's checkpoint kept, training ended where none gets better."""

import time
from collections.abc import Mapping
from typing import Any

from torch import nn

from errors import NotFinite
from games.task import Scorer
from generation.reading import Interrupted
from metrics.lines import best_by, protocol_key
from ops.distributed import agree
from training.logs import RunLog


class Scores:
    """The evaluations of a run, the same on all processes.

    interval: steps between them; patience: evaluations in a row without a better score after which training ends, None
    for never. state_dict() is what a resumed run needs to go on as if it had never stopped.
    """

    def __init__(
        self,
        scorer: Scorer,
        log: RunLog,
        *,
        interval: int,
        patience: int | None,
    ) -> None:
        self.scorer, self.log = scorer, log
        self.interval, self.patience = interval, patience
        # [step, deciding score, protocol] of each evaluation that succeeded
        self.history: list[list[Any]] = []

    def _comparable(self) -> list[tuple[int, float]]:
        """(step, deciding score, the lower the better) of the evaluations made as the last one was."""
        sign = 1.0 if self.scorer.better == "low" else -1.0
        return [(step, sign * value) for step, value, key in self.history if key == self.history[-1][2]]

    def due(self, step: int, n_steps: int) -> bool:
        """Whether a run of n_steps is scored at this step; it is at its end too."""
        return step % self.interval == 0 or step == n_steps

    def missing(self, step: int, n_steps: int) -> bool:
        """Whether a run that stands at this step has yet to be scored there: a signal can end an evaluation."""
        return step > 0 and self.due(step, n_steps) and all(row[0] != step for row in self.history)

    def best(self) -> int | None:
        """Step of the best score, the earlier of equal ones; None before the first."""
        return min(self._comparable(), key=lambda row: row[1])[0] if self.history else None

    def exhausted(self) -> bool:
        """Whether the last `patience` evaluations brought nothing better."""
        if self.patience is None or not self.history:
            return False
        steps = [step for step, _ in self._comparable()]
        return len(steps) - 1 - steps.index(self.best()) >= self.patience

    def evaluate(self, step: int, weights: str, samplers: Mapping[str, nn.Module]) -> bool:
        """Score the weights of that name; whether the step is the best so far. What fails is said, training goes on;
        NotFinite where the generator, or what it makes, is that."""
        began = time.monotonic()
        try:
            G = agree(lambda: samplers[weights])  # or all fail: none waits
            line = self.scorer.score(G, step=step, weights=weights)
        except Interrupted:
            self.log.say(
                f"evaluation at step {step} given up for the signal; the resumed run takes it up again"
            )
            return False
        except NotFinite:
            raise  # training has diverged
        except (ValueError, RuntimeError, OSError) as error:
            reason = " ".join(str(error).split())
            self.log.say(f"warning: evaluation at step {step} failed: {reason}; training goes on")
            return False
        finally:
            self.log.pause(time.monotonic() - began)
        name, _ = best_by(line)
        self.history.append([step, float(line[name]), protocol_key(line)])
        best = self.best()
        self.log.score(line)
        seconds = time.monotonic() - began
        note = "the best so far" if best == step else f"best at step {best}"
        self.log.say(f"step {step}: {name} {line[name]:.4g} of {weights} weights, {note} ({seconds:.0f} s)")
        return best == step

    def seconds(self, samplers: Mapping[str, nn.Module]) -> float:
        """About how long an evaluation of the first weight set takes."""
        return self.scorer.seconds(agree(lambda: next(iter(samplers.values()))))

    def reason(self) -> str:
        """Why training ends before its last step."""
        return (
            f"nothing better in {self.patience} score(s) in a row: ended at step {self.history[-1][0]}, "
            f"the best is that of step {self.best()}"
        )

    def state_dict(self) -> list[list[Any]]:
        """The evaluations so far."""
        return [list(row) for row in self.history]

    def load_state_dict(self, state: list[list[Any]]) -> None:
        """Restore what state_dict gave."""
        self.history = [list(row) for row in state]
