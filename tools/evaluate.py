"""Score a trained generator: Frechet distance to its data, the classes it shows, and how it was measured.

    python -m tools.evaluate RUN --extractor mnist-cnn --n 10000
    python -m tools.evaluate RUN --extractor mnist-cnn --n 10000 --balanced      as many fakes of each class

RUN is a run's folder or its generator/ folder alone. N fakes are compared with N reals. Prints a table and
appends one JSON line, with the whole protocol, to scores.jsonl in the run's folder, or in a generator/ folder
that stands alone. Two scores can be compared when their protocols are equal, extractor's checksum included.
"read as asked": the share of fakes in which the extractor reads the class that was asked for, where it knows the
generator's classes.
"""

import argparse
import json
import math
import platform
import sys
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from metrics.features import CHUNK, EXTRACTORS, Extractor, cached_statistics, load_extractor
from metrics.score import score
from modelling.layers import image_shape
from tools.common import (
    add_generator_flags,
    add_machine_flags,
    cache_folder,
    code_version,
    find_weights,
    images_of,
    make_parser,
    positive,
    warn,
)
from training.data import ImageData, load_dataset
from training.device import choose_device
from training.errors import UserError, blaming_user, cli
from training.generator import find_generator, load_generator
from training.rng import generator
from training.sampling import sample

FEW = 10_000


def parser() -> argparse.ArgumentParser:
    """The command line."""
    p = make_parser("tools.evaluate", __doc__)
    add_generator_flags(p)
    p.add_argument(
        "--extractor", required=True, choices=tuple(EXTRACTORS), help="network that reads the images"
    )
    p.add_argument(
        "--extractor_weights", type=Path, help="its file (default: as tools.train_classifier wrote it)"
    )
    p.add_argument("--n", type=positive, default=FEW, help="number of fakes, and of reals [10000]")
    p.add_argument(
        "--split", default="train", choices=("train", "val", "test", "all"), help="of the reals [train]"
    )
    about = "fakes of a generator of classes take turns through them (default: the labels of the reference)"
    p.add_argument("--balanced", action="store_true", help=about)
    p.add_argument("--seed", type=int, default=0, help="fakes are a function of it [0]")
    p.add_argument("--data_root", help="where the data set's files stand (default: as in training)")
    p.add_argument("--data", help="folder or archive of images in place of them (default: as in training)")
    add_machine_flags(p)
    return p


def load_reference(args: argparse.Namespace, config: dict[str, Any]) -> ImageData:
    """The run's data set at its size; --data_root and --data win over what training remembered."""
    held = config["data"]
    with blaming_user():
        data = load_dataset(
            config["dataset"],
            img_size=config["build"]["img_size"],
            img_channels=config["build"]["img_channels"],
            split=args.split,
            data_root=held.get("data_root") if args.data_root is None else args.data_root,
            data=held.get("data") if args.data is None else args.data,
            cache_dir=args.cache_dir,
        )
    if len(data.images) < args.n:
        raise UserError(
            f"--n {args.n}: the reference, {data.name} {args.split}, has {len(data.images)} images"
        )
    if config["n_labels"] and list(data.label_names) != list(config["label_names"]):
        raise UserError(
            f"the labels of the reference ({', '.join(data.label_names) or 'none'}) are not the generator's "
            f"({', '.join(config['label_names'])}); check --data and --data_root"
        )
    if args.split == held.get("split") and data.fingerprint != held.get("fingerprint"):
        warn("the reference is not the data that the run was trained on")
    return data


def reference_index(data: ImageData, n: int) -> Tensor:
    """Which n images are the reference: a fixed draw without order, so that no class folder is left out."""
    return torch.randperm(len(data.images), generator=generator(0, "reference"))[:n].sort().values


def real_batches(data: ImageData, index: Tensor) -> Iterator[Tensor]:
    """The reference as uint8 batches (<= 256, C, H, W)."""
    for i in range(0, len(index), CHUNK):
        yield images_of(data, index[i : i + CHUNK])


def labels_of(data: ImageData, index: Tensor, config: dict[str, Any], balanced: bool) -> Tensor | None:
    """Labels for the fakes of a conditional generator: those of the reference images, or the classes in turn."""
    if not config["n_labels"]:
        return None
    if balanced:
        return torch.arange(len(index)) % config["n_labels"]
    y = torch.from_numpy(data.labels[index.numpy()])
    return y.to(torch.get_default_dtype()) if config["multi_hot"] else y.long()


def check_balanced(config: dict[str, Any]) -> None:
    """UserError for a generator whose samples are of no one class each."""
    if not config["n_labels"]:
        raise UserError("--balanced: this generator was trained without --conditional")
    if config["multi_hot"]:
        raise UserError(
            "--balanced: this generator knows attributes, of which an image has several; leave it out"
        )


def asked_classes(y: Tensor | None, config: dict[str, Any], extractor: Extractor) -> Tensor | None:
    """The labels y (N,) of the fakes if the extractor reads the same classes in the same order, else None."""
    same = not config["multi_hot"] and tuple(config["label_names"]) == extractor.classes
    return y if same else None


def protocol(
    args: argparse.Namespace, config: dict[str, Any], data: ImageData, extractor: Extractor, device: str
) -> dict[str, Any]:
    """Everything that a reader needs to measure the same again."""
    build = config["build"]
    labels = "balanced: the classes in turn" if args.balanced else "of the reference images"
    return {
        "n_real": args.n,
        "n_fake": args.n,
        "reference": data.name,
        "split": args.split,
        "data_fingerprint": data.fingerprint,
        "size": [*image_shape(build["img_size"]), build["img_channels"]],
        "crop": "as in training: the data set's own cache",
        "resize": extractor.module.resize,
        "extractor": extractor.name,
        "extractor_sha256": extractor.checksum,
        "extractor_accuracy": extractor.metadata.get("accuracy"),
        "quantised": "round and clamp to uint8",
        "labels": labels if config["n_labels"] else None,
        "weights": config["chosen"],
        "truncation": None,
        "batch_norm": config["batch_norm"],
        "seed": args.seed,
        "step": config["step"],
        "code": code_version(),
        "torch": str(torch.__version__),
        "device": torch.cuda.get_device_name() if device == "cuda" else f"{device} ({platform.machine()})",
    }


def scores_file(run: str) -> Path:
    """scores.jsonl of the run; inside the generator/ folder where that stands alone."""
    folder = find_generator(run)
    is_run = folder.name == "generator" and (folder.resolve().parent / "config.json").is_file()
    return (folder.parent if is_run or folder != Path(run) else folder) / "scores.jsonl"


def append(file: Path, line: dict[str, Any]) -> None:
    """Add one JSON line; a folder that cannot be written to costs only the line."""
    # JSON has no infinity: KL to data is infinite where a class appears that the reference lacks.
    plain = {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in line.items()}
    try:
        with file.open("a", encoding="utf-8") as opened:
            opened.write(json.dumps(plain) + "\n")
        print(f"appended to {file}")
    except OSError as error:
        warn(f"{file} cannot be written: {error.strerror}")


def table(result: dict[str, Any], about: dict[str, Any]) -> str:
    """The result as lines for people."""
    extractor = about["extractor"]
    shares = result["shares"]
    rows = [
        (f"fid[{extractor}]", f"{result[f'fid[{extractor}]']:.3f}"),
        ("classes >= 1 %", f"{result['classes']} of {len(shares)}"),
        ("KL to uniform", f"{result['kl_uniform']:.4f} nats"),
        ("KL to data", f"{result['kl_data']:.4f} nats"),
        ("confidence", f"{result['confidence']:.3f}"),
        ("shares in %", "  ".join(f"{i}: {100 * share:.1f}" for i, share in enumerate(shares))),
    ]
    if result["class_accuracy"] is not None:
        rows.append(("read as asked", f"{result['class_accuracy']:.1%}"))
    head = (
        f"step {about['step']}, {about['weights']} weights, seed {about['seed']}: {about['n_fake']} fakes, "
        f"{about['n_real']} reals of {about['reference']} {about['split']}"
    )
    reader = f"{extractor} {about['extractor_sha256'][:16]}, batch norm: {about['batch_norm']}"
    if about["labels"] is not None:
        reader += f", labels {about['labels']}"
    return "\n".join([head, reader, *(f"{name:<18} {value}" for name, value in rows)])


@cli
def main(argv: Sequence[str] | None = None) -> int:
    """Load generator, extractor and reference, score, print and append."""
    args = parser().parse_args(argv)
    if args.n < 2:
        raise UserError(f"--n {args.n}: a covariance needs at least 2 images")
    device = choose_device(args.device)
    G, config = load_generator(args.run, args.weights, device)
    if args.balanced:
        check_balanced(config)
    with blaming_user():
        given = args.extractor_weights
        file = find_weights(args.extractor, args.cache_dir) if given is None else given
        extractor = load_extractor(args.extractor, file, device)
    data = load_reference(args, config)
    if args.n < FEW:
        warn(f"--n {args.n} is below {FEW}: fid rises as n falls; compare only with scores of the same n")
    index = reference_index(data, args.n)
    y = labels_of(data, index, config, args.balanced)
    shape = tuple(data.images.shape[1:])
    identity = {"data": data.fingerprint, "n": args.n, "shape": shape, "draw": "reference"}
    with blaming_user():
        reference = cached_statistics(
            extractor, lambda: real_batches(data, index), identity, cache_folder(args.cache_dir)
        )
        fakes = sample(G, args.n, args.seed, y)
        result = score(extractor, fakes, reference, asked_classes(y, config, extractor))
    about = protocol(args, config, data, extractor, device)
    print(table(result, about))
    now = datetime.now(UTC).isoformat(timespec="seconds")
    append(scores_file(args.run), {"step": config["step"], **result, "protocol": about, "date": now})
    return 0


if __name__ == "__main__":
    sys.exit(main())
