"""The schedule of instance noise in D; the noise itself is a layer of the network. arXiv:1610.04490."""


def noise_scale(step: int, n_anneal_steps: int | None) -> float:
    """Factor of the noise's deviation at `step`: linear from 1 to 0 over n_anneal_steps, None stays 1.

    ValueError for n_anneal_steps below 1.
    """
    if n_anneal_steps is None:
        return 1.0
    if n_anneal_steps < 1:
        raise ValueError(f"noise cannot be annealed over {n_anneal_steps} steps; give at least 1")
    return max(0.0, 1.0 - step / n_anneal_steps)
