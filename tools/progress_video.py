"""Show how a run's pictures of the same latents changed while it trained: learning, and a collapse as well.

    python -m tools.progress_video RUN --out progress.webp
    python -m tools.progress_video RUN --out progress.mp4 --weights real ema      beside training images
    python -m tools.progress_video RUN --out frames/ --size 800

RUN is a run's folder: the pictures are those that training left in its samples/, of each weight set side by side, with
the step above them and a line as long as training had gone. Pictures that cannot be read are named and left out. .mp4
needs PyAV: pip install av.
"""

import argparse
import io
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from disk import Unreadable, read_bytes
from errors import UserError, cli, shown
from generation.animation import MAX_SIDE, check_animation
from generation.pictures import FAKE, INK, LINE, WHITE
from generation.record import pictures_in
from tools import tool_parser
from tools.common import finite, positive, usual_scale, warn
from tools.frames import save_animation

REAL = "real"  # samples/real.png, which stands still
FILE_LIMIT, MAX_PIXELS = 2**28, 2**26  # bytes and px of a picture
MAX_STEPS = 500  # shown, at equal distances in the list of all
GAP, BAR = 8, 34  # px between pictures, and of the line above them
LISTED = 10  # pictures that could not be read

Files = Mapping[str, Mapping[int, Path]]  # weights -> step -> picture


def parser() -> argparse.ArgumentParser:
    """The command line."""
    p = tool_parser("tools.progress_video", __doc__)
    p.add_argument("run", metavar="RUN", help="runs/NAME")
    about = "NAME.webp, NAME.gif or NAME.mp4, or DIR/ for frames as PNG"
    p.add_argument("--out", required=True, help=about)
    about = (
        "which stand side by side: ema, raw, ema-DECAY, and real for training images [raw and averaged ones]"
    )
    p.add_argument("--weights", nargs="+", metavar="NAME", help=about)
    p.add_argument("--fps", type=finite, default=6.0, help="steps shown a second [6]")
    p.add_argument("--hold", type=finite, default=2.0, help="seconds that the last one stays in addition [2]")
    p.add_argument("--size", type=positive, default=1280, help="px of a frame's longer side at most [1280]")
    return p


# -- what there is -----------------------------------------------------------------------------------------------------


def samples_of(run: str) -> Path:
    """samples/ of a run, which may be given as its generator/; UserError where there is none."""
    path = Path(run)
    for folder in (path, path.resolve().parent if path.name == "generator" else path):
        if (folder / "samples").is_dir():
            return folder / "samples"
    what = "does not exist" if not path.exists() else "has no samples/"
    raise UserError(f"{run} {what}: give runs/NAME of a run that has made pictures while it trained")


def find_pictures(folder: Path, weights: Sequence[str] | None) -> dict[str, dict[int, Path]]:
    """The pictures of the weight sets asked for, None for all, raw first; UserError where there are none."""
    try:
        there = pictures_in(folder)
    except OSError as error:
        raise UserError(f"{folder} cannot be read: {error.strerror}") from None
    if not there:
        raise UserError(f"{folder} holds no pictures of training (step-00001000-ema.png)")
    known = [*sorted(there, key=lambda name: (name != "raw", name))]
    chosen = known if weights is None else list(dict.fromkeys(weights))
    unknown = [name for name in chosen if name not in (*known, REAL)]
    if unknown:
        raise UserError(
            f"--weights {shown(unknown[0])}: {folder} has pictures of {', '.join((*known, REAL))}"
        )
    if set(chosen) == {REAL}:
        raise UserError(
            f"--weights {REAL}: training images alone do not change; add one of {', '.join(known)}"
        )
    return {name: there.get(name, {0: folder / f"{REAL}.png"}) for name in chosen}


def opened(file: Path) -> Image.Image:
    """A picture whose header has been read; Unreadable."""
    try:
        picture = Image.open(io.BytesIO(read_bytes(file, FILE_LIMIT)), formats=["PNG"])
    except Unreadable:
        raise
    except Exception:  # whatever a decoder raises
        raise Unreadable(f"{file.name} is no PNG") from None
    if picture.width * picture.height > MAX_PIXELS:
        raise Unreadable(f"{file.name} has more than {MAX_PIXELS:,} px")
    return picture


def decoded(file: Path) -> Image.Image:
    """A picture in colour; Unreadable."""
    picture = opened(file)
    try:
        return picture.convert("RGB")
    except Exception as error:  # whatever a decoder raises
        raise Unreadable(f"{file.name} is damaged: {shown(' '.join(str(error).split()), 80)}") from None


def largest(files: Files, bad: dict[str, str]) -> dict[str, tuple[int, int]]:
    """(width, height) that holds every picture of each weight set; those that cannot be opened go into `bad`."""
    sizes = {}
    for name, pictures in files.items():
        found = []
        for file in pictures.values():
            try:
                found.append(opened(file).size)
            except Unreadable as error:
                bad[file.name] = str(error)
        if not found:
            first = next(iter(pictures.values()))
            raise UserError(f"no picture of the weights {name} can be read: {bad[first.name]}")
        sizes[name] = tuple(map(max, zip(*found, strict=True)))
    return sizes


# -- a frame -----------------------------------------------------------------------------------------------------------


def fitted(picture: Image.Image, size: tuple[int, int]) -> Image.Image:
    """A picture on white of that size: each pixel as the largest square that fits, or made smaller."""
    width, height = size
    times = min(width // picture.width, height // picture.height)
    if times >= 1:
        picture = picture.resize((times * picture.width, times * picture.height), Image.Resampling.NEAREST)
    else:
        picture.thumbnail(size, Image.Resampling.LANCZOS)
    whole = Image.new("RGB", size, WHITE)
    whole.paste(picture, ((width - picture.width) // 2, (height - picture.height) // 2))
    return whole


def panels(sizes: Mapping[str, tuple[int, int]], limit: int) -> dict[str, tuple[int, int]]:
    """(width, height) that each weight set is shown in: grids of up to 512 px enlarged, no frame beyond the limit."""
    times = max(usual_scale(width) for width, _ in sizes.values())
    widths, heights = zip(*sizes.values(), strict=True)
    room = (limit - GAP * (len(sizes) + 1)) / sum(widths), (limit - BAR - GAP) / max(heights)
    factor = min(times, int(min(room))) if min(room) >= 1 else min(room)
    return {name: tuple(max(1, int(factor * side)) for side in size) for name, size in sizes.items()}


def frame_size(sizes: Mapping[str, tuple[int, int]]) -> tuple[int, int]:
    """(width, height) of a frame of such panels."""
    widths, heights = zip(*sizes.values(), strict=True)
    return GAP + sum(width + GAP for width in widths), BAR + max(heights) + GAP


def frame(
    pictures: Mapping[str, Image.Image | None], sizes: Mapping[str, tuple[int, int]], step: int, last: int
) -> Image.Image:
    """The pictures side by side, each under its name; the step and how far training had gone above them."""
    whole = Image.new("RGB", frame_size(sizes), WHITE)
    pen, font, left = ImageDraw.Draw(whole), ImageFont.load_default(16), GAP
    reach = whole.width - 2 * GAP
    pen.line([GAP, BAR - 6, GAP + reach, BAR - 6], fill=LINE, width=3)
    pen.line([GAP, BAR - 6, GAP + reach * step / max(1, last), BAR - 6], fill=FAKE, width=3)
    text = f"step {step:,}"
    pen.text((GAP, 4), text, fill=INK, font=font)
    taken = GAP + pen.textlength(text, font=font) + 2 * GAP
    for name, size in sizes.items():
        start = left + size[0] - pen.textlength(name, font=font)
        if start > taken:
            pen.text((start, 4), name, fill=INK, font=font)
        if pictures[name] is not None:
            whole.paste(fitted(pictures[name], size), (left, BAR))
        left += size[0] + GAP
    return whole


def frames(
    files: Files, steps: Sequence[int], sizes: Mapping[str, tuple[int, int]], bad: dict[str, str]
) -> Iterator[Image.Image]:
    """A frame a step, without the steps of which nothing can be read; why goes into `bad`."""
    still = decoded(files[REAL][0]) if REAL in files else None

    def picture(name: str, step: int) -> Image.Image | None:
        if name == REAL:
            return still
        file = files[name].get(step)
        try:
            return None if file is None or file.name in bad else decoded(file)
        except Unreadable as error:
            bad[file.name] = str(error)
            return None

    for step in steps:
        found = {name: picture(name, step) for name in files}
        if any(picture is not None for name, picture in found.items() if name != REAL):
            yield frame(found, sizes, step, steps[-1])


@cli
def main(argv: Sequence[str] | None = None) -> int:
    """Find the pictures, put them side by side, write them one after the other."""
    args = parser().parse_args(argv)
    if not 64 <= args.size <= MAX_SIDE:
        raise UserError(f"--size {args.size} must be 64 to {MAX_SIDE:,} px")
    if not 0 <= args.hold <= 60:
        raise UserError(f"--hold {args.hold:g} must be 0 to 60 seconds")
    files = find_pictures(samples_of(args.run), args.weights)
    bad: dict[str, str] = {}
    sizes = panels(largest(files, bad), args.size)
    steps = sorted({step for name, pictures in files.items() if name != REAL for step in pictures})
    n = min(len(steps), MAX_STEPS)
    steps = [steps[round(i * (len(steps) - 1) / max(1, n - 1))] for i in range(n)]
    check_animation(args.out, n, frame_size(sizes), args.fps, "take a smaller --size")
    n = save_animation(frames(files, steps, sizes, bad), args.out, args.fps, args.hold)
    for reason in list(bad.values())[:LISTED]:
        warn(f"{reason}; left out")
    if len(bad) > LISTED:
        warn(f"{len(bad):,} pictures cannot be read, the first {LISTED} are named")
    print(f"wrote {n} frames, steps {steps[0]:,} to {steps[-1]:,}, of {' and '.join(files)}, to {args.out}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
