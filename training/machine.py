"""What a run computes on: Accelerate's device, precision and processes, torch's switches, compiled forwards."""

import os
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from functools import partial
from typing import Any

import torch
from accelerate import Accelerator, PartialState
from accelerate.state import AcceleratorState, GradientState

from errors import UserError, tell
from games.task import Place
from images.batches import Shard
from settings import TrainConfig
from training.device import choose_device
from training.processes import join_group

HALF_TYPES = {"fp16": torch.float16, "bf16": torch.bfloat16}


_RUNNING = threading.Lock()  # torch's switches and generators, and Accelerate's state, are the process's
_runs_in: list[int] = []


@contextmanager
def alone() -> Iterator[None]:
    """One run at a time in a process: a second thread waits; UserError for a run within a run."""
    if threading.get_ident() in _runs_in:
        raise UserError("a run trains already in this thread: on_step cannot start another")
    with _RUNNING:
        _runs_in.append(threading.get_ident())
        try:
            yield
        finally:
            _runs_in.clear()


@contextmanager
def accelerated(config: TrainConfig) -> Iterator[Accelerator]:
    """An Accelerator for this run alone: its state, torch's process-wide switches and default generators are put back
    at the end, so that a process can train again, or use Accelerate itself."""
    with alone(), own_states(), kept_switches():
        accelerator = make_accelerator(config)
        set_switches(config, accelerator)
        cuda = [accelerator.device] if accelerator.device.type == "cuda" else []
        with torch.random.fork_rng(cuda), torch.enable_grad():
            yield accelerator


@contextmanager
def own_states() -> Iterator[None]:
    """Fresh states of Accelerate inside; afterwards those of before.

    Processes that have met stay together: torch.distributed is a process's own, and so is what Accelerate knows of it.
    """
    kept = [(state, state._shared_state) for state in (AcceleratorState, GradientState, PartialState)]
    for state, before in kept:
        if state is not PartialState or not torch.distributed.is_initialized():
            state._shared_state = type(before)()
    try:
        yield
    finally:
        for state, before in kept:
            if state is not PartialState or not torch.distributed.is_initialized():
                state._shared_state = before


def make_accelerator(config: TrainConfig) -> Accelerator:
    """Accelerate for device, precision, reduction and trackers; neither networks nor optimisers go through it."""
    device = choose_device(config.device)
    launcher = os.environ.get("ACCELERATE_MIXED_PRECISION", "no")
    precision = config.mixed_precision or launcher
    if launcher not in ("no", precision):
        tell(f"note: --mixed_precision {precision} of the run wins over the launcher's {launcher}")
    if precision == "fp16" and device == "cpu":
        tell("warning: fp16 does not exist on the CPU: computing in fp32 (bf16 does: --mixed_precision bf16)")
        precision = "no"
    if config.deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    join_group(device)
    try:
        return Accelerator(
            cpu=device == "cpu",
            mixed_precision=precision,
            log_with=list(config.loggers) or None,
            project_dir=config.runs_dir,
        )
    except ValueError as error:
        raise UserError(f"--mixed_precision {precision}: {error}") from None


@contextmanager
def kept_switches() -> Iterator[None]:
    """Put torch's process-wide switches back afterwards."""
    matmul, cudnn = torch.backends.cuda.matmul, torch.backends.cudnn
    before = (matmul.allow_tf32, cudnn.allow_tf32, cudnn.benchmark)
    deterministic = torch.are_deterministic_algorithms_enabled()
    warn_only = torch.is_deterministic_algorithms_warn_only_enabled()
    try:
        yield
    finally:
        matmul.allow_tf32, cudnn.allow_tf32, cudnn.benchmark = before
        torch.use_deterministic_algorithms(deterministic, warn_only=warn_only)


def set_switches(config: TrainConfig, accelerator: Accelerator) -> None:
    """torch's process-wide switches for this run, after Accelerate has set its own."""
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = config.tf32
    torch.backends.cudnn.benchmark = not config.deterministic
    torch.use_deterministic_algorithms(config.deterministic)
    if config.sync_bn and accelerator.device.type != "cuda":
        accelerator.print(
            "warning: --sync_bn works on CUDA only: batch statistics are per process", file=sys.stderr
        )


def shard_of(config: TrainConfig, accelerator: Accelerator) -> Shard:
    """This process's share of each batch; UserError for a batch that cannot be shared out."""
    return Shard(config.batch_size, accelerator.num_processes, accelerator.process_index, config.accumulate)


def place_of(config: TrainConfig, accelerator: Accelerator) -> Place:
    """Where and how the game computes."""
    dtype = HALF_TYPES.get(accelerator.mixed_precision)
    options = compile_options(accelerator)
    return Place(
        accelerator.device,
        shard_of(config, accelerator),
        autocast=nullcontext if dtype is None else partial(torch.autocast, accelerator.device.type, dtype),
        half=dtype is not None,
        compiled=None if options is None else partial(torch.compile, **options),
    )


def plugin_backend(accelerator: Accelerator) -> str:
    """The launcher's --dynamo_backend in lower case, "no" without one."""
    return str(accelerator.state.dynamo_plugin.backend).rpartition(".")[2].lower()


def compile_options(accelerator: Accelerator) -> dict[str, Any] | None:
    """Arguments of torch.compile from the launcher's --dynamo_backend; None without one."""
    if plugin_backend(accelerator) == "no":
        return None
    options = accelerator.state.dynamo_plugin.to_kwargs()
    if options.get("backend") == "inductor":
        from torch._inductor.cpp_builder import get_cpp_compiler
        from torch._inductor.exc import InvalidCxxCompiler

        try:
            get_cpp_compiler()
        except InvalidCxxCompiler:
            raise UserError(
                "--dynamo_backend inductor needs a C++ compiler: install g++ (or set CXX), or leave the flag out"
            ) from None
    return options | {"dynamic": False}
