"""The study of the classic methods: its rows, its table by hand, and the way from the command to a report."""

from pathlib import Path

import pytest

from studies import classic
from tests.running import cheap
from training.run import train_config


def test_every_row_is_legal_and_reported(tmp_path: Path) -> None:
    names = set()
    for method in classic.METHODS:
        run = classic.training(method, 1, 2000, tmp_path)
        config = run.config()
        assert (config.n_steps, config.seed, config.batch_size, config.ema) == (2000, 1, 32, True)
        assert run.name.replace("-", "").isalnum() and run.n_steps == 2000
        names.add(run.name)
    assert len(names) == len(classic.METHODS)
