"""What every test shares: one thread count, a cache folder of its own, and no GPU test without a GPU."""

import os

# Before torch is imported: the tests and every process they start compute with the same thread count,
# so that bit-for-bit comparisons hold between them, whatever the shell has set. One thread is also the fastest
# for tiny networks, and make test runs a worker a core.
os.environ["OMP_NUM_THREADS"] = "1"

from pathlib import Path

import pytest
import torch

from metrics.features import shipped_file


@pytest.fixture(scope="session", autouse=True)
def own_cache_folder(tmp_path_factory: pytest.TempPathFactory) -> None:
    """The image caches of tests, and of the processes they start, never reach the user's cache folder."""
    os.environ["XDG_CACHE_HOME"] = str(tmp_path_factory.mktemp("cache"))


@pytest.fixture(scope="session")
def weights() -> Path:
    """The weights of digits-cnn that are shipped."""
    return shipped_file("digits-cnn")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip what is marked gpu where torch sees no CUDA device."""
    if not torch.cuda.is_available():
        for item in items:
            if "gpu" in item.keywords:
                item.add_marker(pytest.mark.skip(reason="no CUDA device"))
