"""Checkpoints with a valid checksum that hold what they never should."""

import copy
import hashlib
import io
import random
import re
import shutil
import warnings
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from generation.checkpoint import MAGIC, load_checkpoint
from studies.attacks.runs import N_STEPS, Case, Lab

Path_ = tuple[Any, ...]
# Parts of a checkpoint without which, or with others in place of them, no run is the same.
NEEDED = ("step", "networks", "ema", "optimizers")
WEIGHTS = ("networks", "ema")


def places(value: Any, path: Path_ = ()) -> Iterator[Path_]:
    """The path of everything in nested containers, containers included."""
    if isinstance(value, dict | list):
        for key, child in value.items() if isinstance(value, dict) else enumerate(value):
            yield (*path, key)
            yield from places(child, (*path, key))


def at(value: Any, path: Path_) -> Any:
    """What stands at a path."""
    for key in path:
        value = value[key]
    return value


def put(value: Any, path: Path_, new: Any) -> None:
    """Put something at a path."""
    at(value, path[:-1])[path[-1]] = new


def nested(depth: int) -> list:
    """Lists in lists."""
    inner: list = []
    for _ in range(depth):
        inner = [inner]
    return inner


def junk(rng: random.Random) -> Any:
    """Something of another type or size than is wanted."""
    found = (
        None, True, -1, 2.5, 0, 10**18, 10**30, -(10**400), float("nan"), float("inf"), "", "x", "\x1b[31m\n\x07red",
        "a" * 10**6, b"\0" * 10, [], {}, [1, [2, [3]]], {"a": {"b": 1}}, nested(150), (1, 2), 1j, torch.zeros(0),
        torch.zeros(3, dtype=torch.int64), torch.float16,
    )  # fmt: skip
    return rng.choice(found)


def deformed(tensor: Tensor, rng: random.Random) -> tuple[str, Tensor]:
    """The tensor in another shape."""
    t = tensor.reshape(-1) if tensor.dim() == 0 else tensor
    forms: dict[str, Callable[[], Tensor]] = {
        "flattened": lambda: t.reshape(-1) if t.dim() > 1 else t.reshape(1, -1),
        "one more axis": lambda: t[None],
        "doubled": lambda: torch.cat([t, t]),
        "empty": lambda: t[:0],
        "a number": lambda: torch.tensor(1.0),
        "of 10**12 values": lambda: torch.zeros(1).expand(10**6, 10**6),
        "of no memory": lambda: torch.empty(0, 10**12),
    }
    name = rng.choice(sorted(forms))
    return name, forms[name]()


def retyped(tensor: Tensor, rng: random.Random) -> tuple[str, Tensor]:
    """The tensor in another type of numbers."""
    names = ["float64", "float16", "bfloat16", "int8", "int64", "bool", "complex64", "uint8", "float8_e4m3fn"]
    types = [getattr(torch, name) for name in names if getattr(torch, name) != tensor.dtype]
    dtype = rng.choice(types)
    return str(dtype), tensor.to(torch.float32).to(dtype)


def spoilt(tensor: Tensor, rng: random.Random) -> tuple[str, Tensor]:
    """The tensor with a value, or all, that is no finite number."""
    value = rng.choice([float("nan"), float("inf"), float("-inf")])
    flat = tensor.float().flatten().clone()
    if rng.random() < 0.5:
        flat.fill_(value)
        return f"all {value}", flat.view(tensor.shape)
    flat[rng.randrange(flat.numel())] = value
    return f"one {value}", flat.view(tensor.shape)


def laid_out(tensor: Tensor, rng: random.Random) -> tuple[str, Tensor, bool]:
    """The tensor in another memory layout: its name, itself, and whether it may be taken."""
    t = tensor.float().reshape(1) if tensor.dim() == 0 else tensor.float()
    forms: dict[str, tuple[Callable[[], Tensor], bool]] = {
        "strided": (lambda: torch.stack([t, t], -1)[..., 0], True),
        "expanded": (lambda: t.flatten()[:1].expand(t.numel()).view(t.shape) if t.dim() == 1 else
                     t[:1].expand_as(t), True),
        "sparse": (t.to_sparse, False),
        "sparse rows": (lambda: t.reshape(len(t), -1).to_sparse_csr(), False),
        "quantised": (lambda: torch.quantize_per_tensor(t, 0.1, 0, torch.qint8), False),
        "meta": (lambda: t.to("meta"), False),
        "a parameter": (lambda: torch.nn.Parameter(t.clone()), True),
        "overlapping": (lambda: torch.as_strided(torch.zeros(t.numel() + 8), t.shape, (1,) * t.dim()), True),
    }  # fmt: skip
    name = rng.choice(sorted(forms))
    make, may = forms[name]
    return name, make(), may


def tensor_places(state: dict, parts: tuple[str, ...], least: int = 1) -> list[Path_]:
    """Paths of the tensors in some parts of a state, of at least so many axes."""
    return [
        p
        for p in places(state)
        if p[0] in parts and isinstance(v := at(state, p), Tensor) and v.dim() >= least
    ]


# -- ways to spoil a checkpoint: (state, rng) -> what was done, and what must refuse it --------------------------------

Spoiler = Callable[[dict, random.Random], tuple[str, bool]]


def remove(state: dict, rng: random.Random) -> tuple[str, bool]:
    """Take something away."""
    path = rng.choice([p for p in places(state) if rng.random() < 0.5 or len(p) < 3])
    holder = at(state, path[:-1])
    del holder[path[-1]]
    return f"without {path}", path[0] in NEEDED and "param_groups" not in path


def replace(state: dict, rng: random.Random) -> tuple[str, bool]:
    """Put something else in place of something."""
    path = rng.choice([p for p in places(state) if rng.random() < 0.5 or len(p) < 3])
    new = junk(rng)
    put(state, path, new)
    must = path[0] in NEEDED and "param_groups" not in path and not (path == ("step",) and repr(new) == "0")
    return f"{path} = {repr(new)[:60]}", must


def add(state: dict, rng: random.Random) -> tuple[str, bool]:
    """Add something under some odd key."""
    holders = [(), *(p for p in places(state) if isinstance(at(state, p), dict))]
    path = rng.choice(holders)
    key = rng.choice(["extra", "", "\x1b[31m\nkey", 7, None, (1, 2), "a" * 10_000])
    at(state, path)[key] = rng.choice([junk(rng), torch.zeros(3)])
    return f"{path} with {repr(key)[:40]} added", path[:1] == ("networks",) and len(path) == 2


def on_tensor(state: dict, rng: random.Random, change: Callable[..., tuple]) -> tuple[Path_, Any]:
    """(path, what the change gives) of a tensor of networks, averages or optimisers, which the change's second takes
    the place of."""
    path = rng.choice(tensor_places(state, NEEDED))
    given = change(at(state, path), rng)
    put(state, path, given[1])
    return path, given


def deform(state: dict, rng: random.Random) -> tuple[str, bool]:
    """A tensor of another shape."""
    path, (name, _) = on_tensor(state, rng, deformed)
    return f"{path} {name}", True


def retype(state: dict, rng: random.Random) -> tuple[str, bool]:
    """A tensor of other numbers."""
    path, (name, new) = on_tensor(state, rng, retyped)
    # less or more precise numbers are numbers still
    return f"{path} as {name}", not new.dtype.is_floating_point or new.dtype.itemsize == 1


def spoil(state: dict, rng: random.Random) -> tuple[str, bool]:
    """Values that are no numbers."""
    path, (name, _) = on_tensor(state, rng, spoilt)
    return f"{path} {name}", True


def lay_out(state: dict, rng: random.Random) -> tuple[str, bool]:
    """A tensor in another layout."""
    path, (name, _, may) = on_tensor(state, rng, laid_out)
    return f"{path} {name}", not may


def alias(state: dict, rng: random.Random) -> tuple[str, bool]:
    """Tensors that share their memory."""
    paths = tensor_places(state, NEEDED)
    first = rng.choice(paths)
    alike = [p for p in paths if at(state, p).shape == at(state, first).shape and p != first] or [first]
    for path in rng.sample(alike, min(3, len(alike))):
        put(state, path, at(state, first))
    return f"{len(alike)} tensors share the memory of {first}", False


def misfit(state: dict, rng: random.Random) -> tuple[str, bool]:
    """Optimiser state that belongs to another parameter, or is of another size."""
    moments = [p for p in tensor_places(state, ("optimizers",)) if "state" in p]
    first, second = rng.sample(moments, 2)
    one, other = at(state, first), at(state, second)
    put(state, first, other), put(state, second, one)
    return f"{first} and {second} exchanged", one.shape != other.shape


def groups(state: dict, rng: random.Random) -> tuple[str, bool]:
    """Groups of an optimiser that name other parameters, or have other values."""
    name = rng.choice(sorted(state["optimizers"]))
    held = state["optimizers"][name]["param_groups"]
    group = held[0]
    key = rng.choice(sorted(group))
    wrong = {
        "params": [
            [0] * len(group["params"]),
            [10**9] * len(group["params"]),
            [],
            group["params"] * 2,
            ["a"],
        ],
        "lr": [float("nan"), -1.0, "x", 1e300, 10**400],
        "betas": [(2.0, 3.0), None, (0.9,), ("a", "b"), (float("nan"), 0.5)],
    }
    new = rng.choice([*wrong.get(key, []), junk(rng)])
    group[key] = new
    if rng.random() < 0.2:
        held.append(copy.deepcopy(group))
    return f"optimizers.{name}.param_groups: {key} = {repr(new)[:60]}", False


def count(state: dict, rng: random.Random) -> tuple[str, bool]:
    """Counts that are none."""
    key = rng.choice(["step", "step", "attempt", "processes", "updates", "last_update", "skipped", "scores"])
    new = rng.choice([2.5, -1, 10**18, 10**30, "5", None, float("nan"), [], [[1]], torch.tensor(3)])
    holder = state if key in state else state["loop"]
    holder[key] = new
    return f"{key} = {new!r}", key == "step"


def exchange(state: dict, rng: random.Random) -> tuple[str, bool]:
    """Whole parts that are of another kind."""
    choice = rng.randrange(5)
    if choice == 0:
        networks = state["networks"]
        networks["G"], networks["D"] = networks["D"], networks["G"]
        return "G and D exchanged", True
    if choice == 1:
        part = rng.choice(NEEDED)
        state[part] = {}
        return f"{part} empty", True
    if choice == 2:
        part = rng.choice(["data", "config", "task", "loop", "versions", "scaler"])
        state[part] = junk(rng)
        return f"{part} = {repr(state[part])[:60]}", False
    if choice == 3:
        state.update({f"more-{i}": i for i in range(100_000)})
        return "100,000 more keys", False
    state.clear()
    return "nothing in it", True


SPOILERS: tuple[Spoiler, ...] = (
    remove, replace, replace, add, deform, deform, retype, spoil, lay_out, lay_out, alias, misfit, groups, count,
    exchange,
)  # fmt: skip


def saved(state: Any) -> bytes:
    """What torch.save writes."""
    buffer = io.BytesIO()
    torch.save(state, buffer)
    return buffer.getvalue()


def damage(data: bytes, rng: random.Random) -> tuple[str, bytes]:
    """A file of torch's with another content: its pickle's bytes, its records, or no zip at all."""
    choice = rng.randrange(6)
    if choice == 0:
        return "no zip", rng.randbytes(2000)
    if choice == 1:
        return "a truncated zip", data[: rng.randrange(len(data))]
    if choice == 2:
        return "nothing", b""
    out, about = io.BytesIO(), ""
    with zipfile.ZipFile(io.BytesIO(data)) as old, zipfile.ZipFile(out, "w") as new:
        names = old.namelist()
        records = [n for n in names if re.search(r"/data/\d+$", n)]
        victim = rng.choice(records)
        for name in names:
            content = old.read(name)
            if choice == 3 and name.endswith("data.pkl"):
                changed = bytearray(content)
                for _ in range(rng.randint(1, 5)):
                    changed[rng.randrange(len(changed))] = rng.randrange(256)
                content, about = bytes(changed), "other bytes in its pickle"
            elif choice == 4 and name == victim:
                content, about = content[: rng.randrange(len(content) + 1)], f"{name} cut short"
            elif choice == 5 and name.endswith("data.pkl"):
                # protocol 2, a string of 2**60 bytes, or a function of os
                content = rng.choice(
                    [b"\x80\x02\x8d" + (1 << 60).to_bytes(8, "little"), b"cos\nsystem\n(S'id'\ntR."]
                )
                about = "a pickle of something else"
            new.writestr(zipfile.ZipInfo(name), content)  # which has no time of its own
    return about or "as it was", out.getvalue()


def tampered(state: dict, rng: random.Random) -> tuple[str, bytes, bool]:
    """(what was done, the file's bytes with a valid checksum, whether a run must refuse it)."""
    if rng.random() < 0.15:
        about, data = damage(saved(state), rng)
        must = about != "other bytes in its pickle" and "cut short" not in about
    else:
        copied = copy.deepcopy(state)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of layouts that torch calls new
            about, must = rng.choice(SPOILERS)(copied, rng)
        data = saved(copied)
    return about, data + MAGIC + hashlib.sha256(data).digest(), must


def base_run(lab: Lab, case: Case) -> Path:
    """A copy of the finished run in a scratch folder, with its cache; its folder."""
    twin = lab.twin(1).folder
    shutil.copytree(twin, case.folder)
    shutil.copytree(twin.parent.parent / "cache", case.scratch / "cache")
    return case.folder


def checkpoints(lab: Lab, case: Case, rng: random.Random) -> None:
    """One tampered checkpoint, given to --resume and to tools.sample."""
    run = base_run(lab, case)
    if "state" not in lab.kept:
        lab.kept["state"] = load_checkpoint(lab.twin(1).folder / "checkpoints" / f"step-{N_STEPS:08d}.pt")
    about, data, must = tampered(lab.kept["state"], rng)
    for file in (run / "checkpoints").iterdir():
        file.unlink()
    file = run / "checkpoints" / f"step-{N_STEPS:08d}.pt"
    file.write_bytes(data)
    case.notes.append(about)
    source = rng.choice([str(file), str(run)])
    places = ["--runs_dir", str(case.scratch / "runs"), "--cache_dir", str(case.scratch / "cache")]
    resume = ["gan_mnist.py", "--resume", source, "--n_steps", str(N_STEPS + 1), *places]
    weights = rng.choice(["ema", "raw"])
    sample = [
        "-m",
        "tools.sample",
        str(run),
        "--checkpoint",
        str(N_STEPS),
        "--weights",
        weights,
        "--device",
        "cpu",
    ]
    sample += ["--n", "4", "--out", str(case.scratch / "grid.png")]
    # sampling reads the weights of one network alone
    part = "'networks', 'G'" if weights == "raw" else "'ema'"
    for argv, refuse in ((resume, must), (sample, must and part in about)):
        (child,) = case.run(argv)
        case.check_refusal(child, may_pass=not refuse)
