"""Videos: their frames, length and size, and files that are whole or absent."""

import resource
from pathlib import Path

import av
import cv2
import numpy as np
import pytest

from painting.frames import HOLD, Writer, fitted
from painting.video import Gif, Mp4, open_video
from utils.command import UserError

ONCE = np.ones(1, int)  # how often each frame of a video of one is shown


def growing_painting(count: int, height: int = 64, width: int = 96) -> list[np.ndarray]:
    """Return frames of a painting to which each adds a disc."""
    rng = np.random.default_rng(0)
    canvas = np.zeros((height, width, 3), np.uint8)
    frames = []
    for _ in range(count):
        center = [int(rng.integers(side)) for side in (width, height)]
        cv2.circle(canvas, center, height // 5, rng.integers(0, 256, 3).tolist(), -1, cv2.LINE_AA)
        frames.append(canvas.copy())
    return frames


def film(path: Path, frames: list[np.ndarray], fps: float, seconds: float | None = None) -> Writer:
    """Write frames to a video."""
    height, width = frames[0].shape[:2]
    with open_video(path, height=height, width=width, fps=fps,
                    times=fitted(len(frames), fps, seconds)) as video:
        for number, frame in enumerate(frames):
            video.write(number, frame)
    video.check()
    return video


def as_bgr(frame: av.VideoFrame) -> np.ndarray:
    """Return (H, W, 3), from 4:2:0 by BT.709."""
    if frame.format.name != "yuv420p":
        return frame.to_ndarray(format="bgr24")
    assert (frame.colorspace, frame.color_range) == (1, 1)  # BT.709, 16 to 235
    return frame.reformat(format="bgr24", src_colorspace="ITU709").to_ndarray()


def decoded(path: Path) -> tuple[list[np.ndarray], list[float], float]:
    """Return the frames (BGR), their times in seconds and the length in seconds."""
    with av.open(str(path)) as file:
        frames = [(as_bgr(frame), frame.time) for frame in file.decode(video=0)]
        return [f for f, _ in frames], [t for _, t in frames], file.duration / av.time_base


def error(one: np.ndarray, other: np.ndarray) -> float:
    """Return the mean absolute difference."""
    return np.abs(one.astype(float) - other).mean()


@pytest.mark.parametrize(("total", "fps", "seconds"), [
    (1, 30, None), (200, 30, None), (500, 25, 10), (7, 30, 4), (50, 29.97, 3.3), (1, 30, 2),
    (3, 24, 0.01), (1000, 1, 5), (30, 30, 1), (31, 30, 60),
])
def test_frames_are_spread_evenly_over_the_length(total, fps, seconds):
    times = fitted(total, fps, seconds)
    assert len(times) == total
    assert times[0] > 0
    hold = round(min(HOLD, seconds / 5 if seconds else HOLD) * fps)
    assert times[-1] >= max(1, hold)
    if seconds is None:
        assert (times[:-1] == 1).all()
        assert times[-1] == 1 + hold
    else:
        assert times.sum() == max(2, round(seconds * fps))
        shown = np.flatnonzero(times)[:-1]
        if len(shown) > 1:  # evenly
            assert np.ptp(np.diff(shown)) <= 1
            assert np.ptp(times[shown]) <= 1


def test_mp4_is_h264_for_browsers(tmp_path):
    frames = growing_painting(20)
    path = tmp_path / "new" / "film.mp4"
    video = film(path, frames, 25)
    assert [p.name for p in path.parent.iterdir()] == ["film.mp4"]
    with av.open(str(path)) as file:
        stream = file.streams.video[0]
        assert (stream.codec_context.name, stream.pix_fmt) == ("h264", "yuv420p")
        assert (stream.width, stream.height) == (video.width, video.height) == (96, 64)
        assert stream.average_rate == 25
    data = path.read_bytes()
    assert data.index(b"moov") < data.index(b"mdat")  # plays before it is loaded
    shown, times, length = decoded(path)
    assert len(shown) == 20 + HOLD * 25
    assert length == pytest.approx(len(shown) / 25, abs=0.01)
    assert times == pytest.approx(np.arange(len(shown)) / 25)
    for i in (0, 7, 19, len(shown) - 1):
        assert error(shown[i], frames[min(i, 19)]) < 6


@pytest.mark.parametrize("color", [(0, 0, 220), (0, 180, 0), (128, 128, 128)])
def test_mp4_keeps_colors(tmp_path, color):
    film(tmp_path / "a.mp4", [np.full((32, 32, 3), color, np.uint8)], 30)
    assert np.abs(decoded(tmp_path / "a.mp4")[0][0] - np.array(color)).max() <= 3


def test_gif_keeps_frames_and_times(tmp_path):
    frames = growing_painting(20)
    frames.insert(10, frames[9])  # nothing changes
    path = tmp_path / "film.GIF"
    film(path, frames, 30)
    assert path.read_bytes().count(b"NETSCAPE2.0\x03\x01\0\0") == 1  # for ever
    shown, times, length = decoded(path)
    assert len(shown) == len(frames)
    assert times == pytest.approx(np.arange(len(frames)) / 30, abs=0.006)
    assert length == pytest.approx(len(frames) / 30 + HOLD, abs=0.01)
    for one, other in zip(shown, frames, strict=True):
        assert error(one, other) < 4


@pytest.mark.parametrize("name", ["film.mp4", "film.gif"])
@pytest.mark.parametrize("seconds", [1.2, 4])
def test_seconds_set_the_length(tmp_path, name, seconds):
    frames = growing_painting(40)
    film(tmp_path / name, frames, 20, seconds)
    shown, _, length = decoded(tmp_path / name)
    assert length == pytest.approx(seconds, abs=0.01)
    assert error(shown[0], frames[0]) < 6
    assert error(shown[-1], frames[-1]) < 9  # halved chroma


def test_sizes_fit_what_players_show(tmp_path, capsys):
    for height, width, fitting in ((513, 301, (512, 300)), (1, 5, (2, 4)),
                                   (4096, 2304, (4096, 2304)), (4096, 4096, (3072, 3072)),
                                   (8192, 1024, (4096, 512))):
        assert Mp4.fit(height, width) == fitting
    assert Gif.fit(4096, 2048) == (1024, 512)
    assert Gif.fit(301, 513) == (301, 513)
    for size in ((17, 33), (1, 1), (64, 9)):
        for suffix in (".mp4", ".gif"):
            video = film(tmp_path / f"film{suffix}", growing_painting(3, *size), 10)
            assert decoded(video.path)[0][-1].shape == (video.height, video.width, 3)
    assert capsys.readouterr().err == ""
    open_video(tmp_path / "film.gif", height=2048, width=4096, fps=10, times=ONCE)
    assert "1024x512" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["film.mp4", "film.gif"])
def test_interrupted_video_leaves_the_former_file(tmp_path, name):
    path = tmp_path / name
    path.write_bytes(b"the former")
    for exception in (KeyboardInterrupt, UserError):
        with pytest.raises(exception), open_video(
            path, height=64, width=96, fps=10, times=fitted(9, 10)
        ) as video:
            video.write(0, growing_painting(1)[0])
            raise exception
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (3000, limits[1]))  # like a full disk
        with pytest.raises(UserError, match="cannot write .*: File too large"):
            film(path, growing_painting(60, 128, 128), 10)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert path.read_bytes() == b"the former"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(("name", "fps", "says"), [
    ("film.avi", 30, r"\.mp4 or \.gif"), ("film", 30, r"\.mp4 or \.gif"),
    ("folder.mp4", 30, "folder.mp4"), ("file/film.mp4", 30, "file is no folder"),
    ("film.gif", 60, "1 to 50"), ("film.mp4", 0.5, "1 to 120"), ("film.mp4", 1e9, "1 to 120"),
    ("/proc/nowhere/film.mp4", 30, "/proc"),
])
def test_unwritable_video_is_refused_at_once(tmp_path, name, fps, says):
    (tmp_path / "folder.mp4").mkdir()
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=says):
        open_video(tmp_path / name, height=8, width=8, fps=fps, times=ONCE)
    assert {p.name for p in tmp_path.iterdir()} == {"folder.mp4", "file"}


@pytest.mark.parametrize("name", ["film.mp4", "film.gif"])
def test_memory_does_not_grow_with_the_frames(tmp_path, name):
    def resident() -> float:
        """Return the resident memory in megabytes."""
        pages = int(Path("/proc/self/statm").read_text().split()[1])
        return pages * resource.getpagesize() / 1e6

    canvas = np.zeros((128, 128, 3), np.uint8)
    rng = np.random.default_rng(0)
    with open_video(tmp_path / name, height=128, width=128, fps=30,
                    times=fitted(1200, 30)) as video:
        for count in range(1200):  # 49 kB each, 59 MB together
            row, column = rng.integers(0, 112, 2)
            canvas[row : row + 16, column : column + 16] = rng.integers(0, 256, 3)
            video.write(count, canvas.copy())
            if count == 300:
                early = resident()
        assert resident() - early < 20
