"""The TensorBoard events of a training run."""

import os
import sys
import time
from pathlib import Path

import torch
from tensorboardX import summary
from tensorboardX.event_file_writer import EventsWriter
from tensorboardX.proto.event_pb2 import Event, SessionLog

from utils.files import reason


class Events:
    """An event file in the folder of a run.

    tensorboardX's SummaryWriter waits for ever where its thread meets a full disk.  Here a line
    says so once, and the training continues without the file.
    """

    def __init__(self, folder: Path, first_step: int) -> None:
        """first_step: of earlier files, TensorBoard shows what is before it alone."""
        self.folder, self._writer, self._broken = folder, None, False
        self._write(Event(session_log=SessionLog(status=SessionLog.START)), first_step)

    def scalars(self, values: dict[str, float], step: int) -> None:
        """Write numbers by name."""
        for name, value in values.items():
            self._write(Event(summary=summary.scalar(name, value)), step)

    def image(self, name: str, picture: torch.Tensor, step: int) -> None:
        """Write a picture (3, H, W): uint8, or floats in [0, 1]."""
        self._write(Event(summary=summary.image(name, picture)), step)

    def _write(self, event: Event, step: int) -> None:
        if self._broken:
            return
        event.wall_time, event.step = time.time(), step
        try:
            # Two in one second would have one name without the process's number.
            self._writer = self._writer or EventsWriter(
                str(self.folder / "events"), f".{os.getpid()}")
            self._writer.write_event(event)
            self._writer.flush()
        except OSError as error:
            self._writer, self._broken = None, True
            print(f"warning: no more TensorBoard events in {self.folder}: {reason(error)}",
                  file=sys.stderr, flush=True)
