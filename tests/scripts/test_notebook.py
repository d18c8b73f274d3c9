"""The notebook runs from top to bottom, with the shipped weights."""

import base64
import re
from pathlib import Path
from xml.etree import ElementTree

import av
import cv2
import nbformat
import numpy as np
import pytest
from nbclient import NotebookClient

from helpers import ROOT

TINY = """
IMAGE = "image/test.png"
MAX_STEP = 4
REFINE = 4
OUTPUT = "output/notebook"
SECONDS = 1
"""


@pytest.fixture
def notebook() -> nbformat.NotebookNode:
    """Return the notebook."""
    return nbformat.read(ROOT / "LearningToPaint.ipynb", as_version=4)


def embedded(data: dict[str, str], kind: str) -> bytes:
    """Return the file of a MIME type within the HTML of an output."""
    (content,) = re.findall(rf'src="data:{re.escape(kind)};base64,([^"]+)"', data["text/html"])
    return base64.b64decode(content)


def test_notebook_runs_from_top_to_bottom(notebook: nbformat.NotebookNode, tmp_path: Path) -> None:
    nbformat.validate(notebook)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert all(not cell.outputs and cell.execution_count is None for cell in code)
    for name in ("baseline", "image"):
        (tmp_path / name).symlink_to(ROOT / name)
    (parameters,) = (cell for cell in code if "parameters" in cell.metadata.get("tags", ()))
    names = re.compile(r"^\w+(?= = )", re.MULTILINE)
    assert names.findall(parameters.source) == names.findall(TINY)
    parameters.source = TINY

    # The rasterizer may have to be compiled first.
    NotebookClient(notebook, timeout=300, kernel_name="python3",
                   resources={"metadata": {"path": str(tmp_path)}}).execute()

    printed = {cell.id: "".join(output.get("text", "") for output in cell.outputs)
               for cell in code}
    shown = {cell.id: next((output.data for output in cell.outputs if "data" in output), {})
             for cell in code}
    read = lambda name: cv2.imread(str(tmp_path / "output" / "notebook" / f"{name}.png")) / 255
    photo = cv2.resize(cv2.imread(str(ROOT / "image" / "test.png")), (512, 512)) / 255
    painting = read("painting")
    assert painting.shape == photo.shape
    assert np.square(painting - photo).mean() < np.square(photo).mean()  # better than black
    steps = re.findall(r"(canvas|4x4 tiles|refining) step \d", printed["paint"])
    assert [steps.count(name) for name in ("canvas", "4x4 tiles", "refining")] == [2, 2, 4]
    assert all("image/png" in shown[cell] for cell in ("result", "triangles"))
    assert read("compare").shape[1] > 3 * 512
    assert "10 strokes" in printed["svg"]

    (tmp_path / "video.mp4").write_bytes(embedded(shown["video"], "video/mp4"))
    with av.open(str(tmp_path / "video.mp4")) as video:
        assert video.streams.video[0].codec_context.name == "h264"
        assert video.streams.video[0].frames == 30

    svg = ElementTree.fromstring(embedded(shown["svg"], "image/svg+xml"))
    assert svg.tag == "{http://www.w3.org/2000/svg}svg"
    assert "animation" in svg[0].text
    assert read("triangles").shape == photo.shape
