"""What a score costs: drawing and reading 10,000 digits, each metric on them, and the Frechet step at 2048 dimensions.

    python -m benchmarks.evaluation [--n 10000] [--dimensions 2048]

Prints one JSON line a case, seconds of wall time. Networks have random weights, which cost what trained ones do: a
DCGAN of 32 px and the digit classifier. Lite0 reads beside the same network with batch norm apart and channels first in
memory. The Frechet step stands beside torch-fidelity's on the same statistics.
"""

import argparse
import json
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any

import torch

from errors import blaming_user, cli
from generation.extractors import open_extractor
from generation.generator import sampling_copy
from generation.indexed import generated
from generation.reading import read_images
from generation.sampling import undisturbed
from metrics.classifiers import DigitCNN
from metrics.features import Extractor, read
from metrics.fidelity import library
from metrics.frechet import frechet_distance, gaussian_statistics
from metrics.lite0 import N_IMAGES
from metrics.score import METRICS, Sets, score
from modelling import build_generator
from pretrained.lite0 import NAME as LITE0
from pretrained.lite0 import Lite0
from tools import tool_parser
from tools.common import positive

Z_DIM = 128
LABELS = {"n_labels": 0, "multi_hot": False}


def timed(action: Callable[[], Any]) -> tuple[Any, float]:
    """What an action gives, and the seconds it took."""
    began = time.perf_counter()
    return action(), time.perf_counter() - began


def say(case: str, seconds: float, **more: object) -> None:
    """One JSON line."""
    line = {
        "op": "evaluation",
        "case": case,
        "seconds": round(seconds, 2),
        "threads": torch.get_num_threads(),
    }
    print(json.dumps(line | more), flush=True)


def digits(n: int) -> None:
    """Draw, read and score n fakes against as many other ones."""
    torch.manual_seed(0)
    G = build_generator("dcgan", img_size=32, img_channels=1, z_dim=Z_DIM)
    G = sampling_copy(G, LABELS)
    extractor = Extractor("digits-cnn", DigitCNN().eval(), "", {}, tuple("0123456789"))
    with undisturbed(G, torch.device("cpu")):
        readings = []
        for seed in (0, 1):
            images = generated(G, n, seed, None)
            rows, seconds = timed(
                lambda images=images: read_images(extractor, images, "fakes", lambda: False)
            )
            readings.append(read(*rows))
    say("draw and read", seconds, n=n)
    sets, total = Sets(extractor, *readings), seconds
    for name in ("fid", "kid", "is", "pr", "dc", "modes"):
        _, seconds = timed(lambda name=name: score([name], sets))
        total += seconds
        row = METRICS[name]
        say(name, seconds, n=n, settings=row.settings(n, n) if row.settings else "")
    say("all", total, n=n)
    for name in ("mind", "memorisation"):  # of those that are computed if named
        _, seconds = timed(lambda name=name: score([name], sets))
        say(name, seconds, n=n, settings=METRICS[name].settings(n, n))


def lite0(n: int = 128, repeats: int = 5) -> None:
    """n colour images of 32 px read by Lite0, at best, and by the network as it is published."""
    reader = open_extractor(LITE0).module
    images = torch.randint(0, 256, (n, 3, 32, 32), dtype=torch.uint8)
    published = Lite0().eval()

    def plainly() -> None:
        for part in images.split(N_IMAGES):
            published(reader.prepare(part))

    with torch.inference_mode():
        ours = min(timed(lambda: reader(images))[1] for _ in range(repeats))
        plain = min(timed(plainly)[1] for _ in range(repeats))
    say("read by lite0", ours, n=n, img_per_s=round(n / ours), plain_img_per_s=round(n / plain))


def frechet(dimensions: int, n: int) -> None:
    """The distance between n features each of two Gaussians, ours and torch-fidelity's."""
    torch.manual_seed(0)
    mix = torch.randn(dimensions, dimensions, dtype=torch.float64) / dimensions**0.5
    found = [
        gaussian_statistics(torch.randn(n, dimensions, dtype=torch.float64) @ mix + shift)
        for shift in (0, 0.1)
    ]
    ours, seconds = timed(lambda: frechet_distance(*found[0], *found[1]))
    theirs = library("metric_fid").fid_statistics_to_metric
    pairs = [{"mu": mean.numpy(), "sigma": covariance.numpy()} for mean, covariance in found]
    values, other = timed(lambda: theirs(*pairs, False))
    theirs = float(next(iter(values.values())))
    say(
        "frechet",
        seconds,
        dimensions=dimensions,
        torch_fidelity=round(other, 2),
        difference=abs(ours - theirs),
    )


def parser() -> argparse.ArgumentParser:
    """The command line."""
    p = tool_parser("benchmarks.evaluation", __doc__)
    p.add_argument("--n", type=positive, default=10_000, help="images a set [10000]")
    p.add_argument("--dimensions", type=positive, default=2048, help="of the Frechet step [2048]")
    return p


@cli
def main(argv: Sequence[str] | None = None) -> int:
    """Run all cases."""
    args = parser().parse_args(argv)
    with blaming_user():
        frechet(args.dimensions, 5 * args.dimensions)
        lite0()
        digits(args.n)
    return 0


if __name__ == "__main__":
    sys.exit(main())
