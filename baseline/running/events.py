"""What a training writes for TensorBoard."""

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
    """An event file in the folder of a run, written at once and not by a thread.

    tensorboardX's own writer waits for ever where its thread met a full disk.  Here a line says
    so once, and the training goes on without the file.
    """

    def __init__(self, folder: Path, first_step: int, on: bool = True) -> None:
        """first_step: what earlier files hold from here on no longer counts.

        on: False in processes that write nothing.
        """
        self.folder = folder
        self._writer: EventsWriter | None = None
        try:
            # Two in one second would have one name without the process's number.
            self._writer = EventsWriter(str(folder / "events"), f".{os.getpid()}") if on else None
        except OSError as error:
            self._give_up(error)
        self._write(Event(session_log=SessionLog(status=SessionLog.START)), first_step)

    def scalar(self, name: str, value: float, step: int) -> None:
        """Note a number."""
        self._write(Event(summary=summary.scalar(name, value)), step)

    def image(self, name: str, picture: torch.Tensor, step: int) -> None:
        """Note a picture (3, H, W): uint8, or floats in [0, 1]."""
        self._write(Event(summary=summary.image(name, picture)), step)

    def flush(self) -> None:
        """Let what was noted be on the disk."""
        self._try("flush")

    def _write(self, event: Event, step: int) -> None:
        event.wall_time, event.step = time.time(), step
        self._try("write_event", event)

    def _try(self, method: str, *arguments: Event) -> None:
        try:
            if self._writer:
                getattr(self._writer, method)(*arguments)
        except OSError as error:
            self._give_up(error)

    def _give_up(self, error: OSError) -> None:
        self._writer = None
        print(f"warning: no more TensorBoard events in {self.folder}: {reason(error)}",
              file=sys.stderr, flush=True)
