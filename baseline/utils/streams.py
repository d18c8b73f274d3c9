"""The standard streams of a script."""

import errno
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, TextIO


class Output:
    """A stream to print on, which may lose its reader, its terminal or its room: work goes on.

    ``failure`` is why something else than a reader was lacking, as of a full disk.
    """

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self.failure: OSError | None = None

    def write(self, text: str) -> int:
        """Write text, if that can be."""
        self._try("write", text)
        return len(text)

    def flush(self) -> None:
        """Flush the stream, if that can be."""
        self._try("flush")

    def _try(self, method: str, *arguments: str) -> None:
        try:
            getattr(self._stream, method)(*arguments)
        except OSError as error:
            if error.errno not in (errno.EPIPE, errno.EIO):
                self.failure = error

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


def prepare_streams() -> None:
    """Let a script print on streams that may be closed, full or of another encoding."""
    for descriptor in range(3):
        try:
            os.fstat(descriptor)
        except OSError:  # it is closed: nothing else shall get its number
            os.open(os.devnull, os.O_RDWR)
    for name in [name for name in os.environ if name.startswith("TQDM_")]:
        del os.environ[name]  # bars have their settings, and nonsense in there would end them
    for name in ("stdout", "stderr"):
        if (stream := getattr(sys, name)) is getattr(sys, f"__{name}__"):  # and no notebook's
            stream = stream or open(os.devnull, "w")  # noqa: SIM115, where it is closed
            stream.reconfigure(errors="backslashreplace")  # names of files may be any bytes
            setattr(sys, name, Output(stream))


@contextmanager
def silent_stderr() -> Iterator[TextIO]:
    """Hide what C libraries print on stderr; yield a file that still leads there."""
    with open(os.dup(2), "w") as stderr:
        try:
            with open(os.devnull, "w") as null:
                os.dup2(null.fileno(), 2)
            yield stderr
        finally:
            os.dup2(stderr.fileno(), 2)
