"""Settings, caches, scores and statistics that hold what they never should."""

import json
import random
import re
import shutil
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from studies.attacks.runs import N_STEPS, Case, Lab, differences
from studies.attacks.tampering import at, base_run, deformed, nested, places, put, spoilt


def json_text(text: str, rng: random.Random) -> tuple[str, bytes, bool]:
    """(what was done, the bytes, whether it is no json object any more) of a json file."""
    whole = {
        "empty": b"",
        "cut short": text[: rng.randrange(1, max(len(text) - 2, 2))].encode(),
        "no text": rng.randbytes(500),
        "another encoding": text.encode("utf-16"),
        "nested 100,000 deep": b"[" * 100_000 + b"]" * 100_000,
        "an object nested 100,000 deep": b'{"a":' * 100_000 + b"1" + b"}" * 100_000,
        "a number of 5,000 digits": b"1" * 5000,
        "null": b"null",
        "a list": b"[1, 2]",
        "a text": b'"x"',
        "100 MB of blanks": b" " * 10**8,
    }
    choice = rng.random()
    if choice < 0.3:
        name = rng.choice(sorted(whole))
        return name, whole[name], True
    value = json.loads(text)
    if choice < 0.4:
        value["format"] = 99
        return "format 99", json.dumps(value).encode(), "weights" in value
    if choice < 0.5:
        key = rng.choice(sorted(value))
        twice = f'{{"{key}": {json.dumps(json_junk(rng))}, {json.dumps(value)[1:]}'
        return f"{key} twice", twice.encode(), False
    path = rng.choice([p for p in places(value) if rng.random() < 0.3 or len(p) < 2])
    if choice < 0.65:
        del at(value, path[:-1])[path[-1]]
        return f"without {path}", json.dumps(value).encode(), path in {("weights",), ("build",), ("model",)}
    new = json_junk(rng)
    put(value, path, new)
    data = json.dumps(value)
    if choice < 0.75:  # numbers that json.dumps does not write
        data = data.replace(json.dumps(new), rng.choice(["1e999", "-1e999", "NaN", "9" * 5000, "1e-999"]), 1)
    return f"{path} = {repr(new)[:60]}", data.encode(), False


def json_junk(rng: random.Random) -> Any:
    """What json can hold and nobody wants here."""
    found = (
        None, True, -1, 0, 2.5, 10**12, 10**30, float("nan"), float("inf"), "", "x", "../../etc/passwd",
        "\x1b[31m\nred", "a" * 10**6, [], {}, [[]], {"a": 1}, nested(500), [0] * 1000, "\ud800",
    )  # fmt: skip
    return rng.choice(found)


def one_step(lab: Lab) -> Path:
    """The folder of a scored run of one step that reads the whole caches of the uninterrupted run."""
    if "one step" not in lab.kept:
        case = Case(lab, lab.folder / "one-step")
        shutil.copytree(lab.twin(1).folder.parent.parent / "cache", case.scratch / "cache")
        case.check_end(case.run(case.command(n_steps=1)))
        assert not case.problems, case.problems
        lab.kept["one step"] = case.folder
    return lab.kept["one step"]


def texts(lab: Lab, case: Case, rng: random.Random) -> None:
    """One tampered json, array or file of statistics, and the command that reads it."""
    run = base_run(lab, case)
    places = ["--runs_dir", str(case.scratch / "runs"), "--cache_dir", str(case.scratch / "cache")]
    sample = [
        "-m",
        "tools.sample",
        str(run),
        "--device",
        "cpu",
        "--n",
        "4",
        "--out",
        str(case.scratch / "grid.png"),
    ]
    kind = rng.choice(["config", "generator", "generator", "scores", "cache", "pixels", "statistics"])
    must = False
    if kind == "config":
        file, argv = (
            run / "config.json",
            ["gan_mnist.py", "--resume", str(run), "--n_steps", str(N_STEPS + 1), *places],
        )
        about, data, _ = json_text(file.read_text(), rng)
    elif kind == "generator":
        file, argv = run / "generator" / "config.json", sample
        about, data, must = json_text(file.read_text(), rng)
    elif kind == "scores":
        file, argv = run / "scores.jsonl", [*sample, "--checkpoint", "best"]
        lines = file.read_text().splitlines()
        about, data, _ = json_text(lines[0], rng)
        data = b"\n".join([data, *(line.encode() for line in lines[1:])]) + b"\n"
    else:
        one_step(lab)
        argv = case.command(n_steps=1, name="one")
        if kind == "cache":
            (file,) = (case.scratch / "cache").glob("*.json")
            about, data, _ = json_text(file.read_text(), rng)
        elif kind == "pixels":
            (file,) = (case.scratch / "cache").glob("*x16x1-*[0-9a-f].npy")
            about, data = other_pixels(file.read_bytes(), rng)
        else:
            (file,) = (case.scratch / "cache" / "statistics").glob("*.safetensors")
            about, data = other_statistics(file, rng)
    file.write_bytes(data)
    case.notes.append(f"{file.relative_to(case.scratch)}: {about}")
    (child,) = case.run(argv)
    case.check_refusal(child, may_pass=not must)
    if child.code == 0 and kind in ("cache", "pixels", "statistics"):
        for text in differences(case.scratch / "runs" / "one", one_step(lab), n_steps=1):
            case.fail(f"taken, and the run is another: {text}")


def other_pixels(data: bytes, rng: random.Random) -> tuple[str, bytes]:
    """A cached array with other pixels, or another header."""
    header, pixels = data[:128], data[128:]
    forms = {
        "empty": b"",
        "cut short": data[: rng.randrange(len(data))],
        "inverted": header + bytes(255 - b for b in pixels),
        "other pixels at its start": header + rng.randbytes(256) + pixels[256:],
        "other pixels at its end": header + pixels[:-256] + rng.randbytes(256),
        "of objects": header.replace(b"|u1", b"|O ") + pixels,
        "of floats": header.replace(b"'|u1'", b"'<f8'") + pixels,
        "of 10**15 images": re.sub(rb"\((\d+),", lambda m: b"(1" + b"0" * 15 + b",", header)[:128] + pixels,
        "no array": rng.randbytes(1000),
    }
    name = rng.choice(sorted(forms))
    return name, forms[name]


def other_statistics(file: Path, rng: random.Random) -> tuple[str, bytes]:
    """Statistics with other values, shapes or types, or no statistics at all."""
    data, tensors = file.read_bytes(), load_file(file)
    name = rng.choice(sorted(tensors))
    choice = rng.randrange(6)
    if choice == 0:
        return "cut short", data[: rng.randrange(len(data))]
    if choice == 1:
        return "a header of 2**62 bytes", (1 << 62).to_bytes(8, "little") + data[8:]
    if choice == 2:
        del tensors[name]
        about = f"without {name}"
    elif choice == 3:
        tensors[name] = tensors[name].clone().float() * -1 - 1
        about = f"{name} negative"
    elif choice == 4:
        about, tensors[name] = deformed(tensors[name].float(), rng)
        tensors[name] = torch.zeros(3, 3) if tensors[name].numel() > 10**7 else tensors[name].contiguous()
        about = f"{name} {about}"
    else:
        about, tensors[name] = spoilt(tensors[name], rng)
        about = f"{name} {about}"
    if not about.endswith("negative") and choice in (2, 4) and "covariance" in tensors and rng.random() < 0.3:
        tensors["more"] = torch.zeros(2)
    temporary = file.with_name("tampered")
    save_file(tensors, temporary)
    data = temporary.read_bytes()
    temporary.unlink()
    return about, data
