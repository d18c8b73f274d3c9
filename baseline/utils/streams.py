"""The standard streams of a script."""

import errno
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TextIO


class Output:
    """A stream that drops text which it cannot write, so that work continues without a reader."""

    failure: OSError | None = None  # other than a lost reader or terminal, for example a full disk

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        """Write text where that is possible."""
        self._try(self._stream.write, text)
        return len(text)

    def flush(self) -> None:
        """Flush the stream where that is possible."""
        self._try(self._stream.flush)

    def _try(self, method: Callable, *arguments: str) -> None:
        try:
            method(*arguments)
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
        except OSError:  # closed: no other file may get its number
            os.open(os.devnull, os.O_RDWR)
    for name in [name for name in os.environ if name.startswith("TQDM_")]:
        del os.environ[name]  # an invalid value would end every progress bar
    for name in ("stdout", "stderr"):
        if (stream := getattr(sys, name)) is getattr(sys, f"__{name}__"):  # not a notebook's
            stream = stream or open(os.devnull, "w")  # noqa: SIM115, where it is closed
            stream.reconfigure(errors="backslashreplace")  # file names may be any bytes
            setattr(sys, name, Output(stream))


@contextmanager
def silent_stderr() -> Iterator[TextIO]:
    """Hide what C libraries print on stderr; yield a file that still writes there."""
    with open(os.dup(2), "w") as stderr, open(os.devnull, "w") as null:
        os.dup2(null.fileno(), 2)
        try:
            yield stderr
        finally:
            os.dup2(stderr.fileno(), 2)
