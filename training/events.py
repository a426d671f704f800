"""TensorBoard's event files, written as all else: appended whole or not at all, and going on after a full disk."""

import io
import itertools
import json
import os
import socket
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from accelerate.tracking import GeneralTracker

import disk
from training.layers import Histogram
from training.summaries import charts, experiment, histogram, session

_numbers = itertools.count()  # of this process's files: a second run may begin within the same second


class TensorBoard(GeneralTracker):
    """A tracker of Accelerate's that owns one event file of the run's folder.

    Torch's SummaryWriter leaves that to a thread, which ends for good at the first OSError. What cannot be written is
    lost, with an OSError; a file that was removed begins anew. purge_step: what older files hold from that step on is
    hidden, None for nothing.
    """

    name = "tensorboard"
    requires_logging_directory = False

    def __init__(self, folder: Path, purge_step: int | None = None) -> None:
        super().__init__()
        host, number = socket.gethostname(), next(_numbers)
        self.file = folder / f"events.out.tfevents.{int(time.time()):010d}.{host}.{os.getpid()}.{number}"
        self.purge_step = purge_step
        self.settings: dict[str, Any] = {}
        self.scored = False

    @property
    def tracker(self) -> Path:
        """The event file."""
        return self.file

    def store_init_configuration(self, values: dict[str, Any]) -> None:
        """The run's settings, shown as a text and compared under HParams; the file begins with the first value."""
        self.settings = values

    def log(self, values: Mapping[str, float], step: int | None = None) -> None:
        """Numbers by name."""
        from torch.utils.tensorboard import summary

        events = [self._event(step, summary=summary.scalar(name, value)) for name, value in values.items()]
        scores = [name for name in values if name.startswith("score/")]
        # HParams takes what the first file that says so names: a run without scores leaves that to those with some
        if scores and not self.scored:
            events.append(self._event(step, summary=experiment(self.settings, scores)))
        self._add(events)
        self.scored |= bool(scores)

    def log_images(self, values: Mapping[str, list[np.ndarray]], step: int | None = None) -> None:
        """Pictures (H, W, C) uint8 by name."""
        from torch.utils.tensorboard import summary

        pictures = [
            summary.image(name, np.stack(grids), dataformats="NHWC") for name, grids in values.items()
        ]
        self._add([self._event(step, summary=picture) for picture in pictures])

    def log_histograms(self, values: Mapping[str, Histogram], step: int | None = None) -> None:
        """How values are spread, by name."""
        self._add([self._event(step, summary=histogram(name, spread)) for name, spread in values.items()])

    def purge(self, step: int) -> None:
        """Hide what was logged from that step on, here and in older files."""
        self.purge_step = step if self.purge_step is None else min(step, self.purge_step)
        if self.file.exists() and self.file.stat().st_size:  # else the file begins with it
            self._add([self._start(step)])

    def finish(self) -> None:
        """Nothing: all is written."""

    @staticmethod
    def _event(step: int | None, **content: Any) -> Any:
        from tensorboard.compat.proto.event_pb2 import Event

        return Event(wall_time=time.time(), step=step, **content)

    def _start(self, step: int) -> Any:
        """A new beginning at a step, which hides what came before from that step on."""
        from tensorboard.compat.proto.event_pb2 import SessionLog

        return self._event(step, session_log=SessionLog(status=SessionLog.START))

    def _add(self, events: list[Any]) -> None:
        """Append events; before the first ones of a file what every file says."""
        if not self.file.exists() or not self.file.stat().st_size:
            events = self._head() + events
        disk.append(self.file, b"".join(record(event.SerializeToString()) for event in events))

    def _head(self) -> list[Any]:
        """The format, what is purged, the settings and how curves are shown together."""
        from torch.utils.tensorboard import summary

        events = [self._event(None, file_version="brain.Event:2")]
        if self.purge_step is not None:
            events.append(self._start(self.purge_step))
        text = f"```json\n{json.dumps(self.settings, indent=2)}\n```"
        first = 0 if self.purge_step is None else self.purge_step - 1
        shown = (summary.text("config", text), session(self.settings), charts())
        return events + [self._event(first, summary=each) for each in shown]


def record(data: bytes) -> bytes:
    """An event as it stands in the file: with its length and checksums."""
    from tensorboard.summary.writer.record_writer import RecordWriter

    held = io.BytesIO()
    RecordWriter(held).write(data)
    return held.getvalue()
