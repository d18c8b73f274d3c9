"""The notebook runs from top to bottom, with the shipped weights."""

from pathlib import Path

import cv2
import nbformat
import numpy as np
import pytest
from nbclient import NotebookClient

ROOT = Path(__file__).resolve().parents[1]
TINY = """
MAX_STEP = 4
DIVIDE = 2
IMAGE = "image/test.png"
OUTPUT = "output/notebook"
VIDEO_FRAMES = 4
"""


@pytest.fixture
def notebook() -> nbformat.NotebookNode:
    """The notebook as it is shipped."""
    return nbformat.read(ROOT / "LearningToPaint.ipynb", as_version=4)


def test_is_valid_and_without_outputs(notebook: nbformat.NotebookNode) -> None:
    nbformat.validate(notebook)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert all(not cell.outputs and cell.execution_count is None for cell in code)


def test_runs_from_top_to_bottom(notebook: nbformat.NotebookNode, tmp_path: Path) -> None:
    for name in ("baseline", "image"):
        (tmp_path / name).symlink_to(ROOT / name)
    (tmp_path / "output" / "notebook").mkdir(parents=True)
    (tmp_path / "output" / "notebook" / "generated999.png").write_bytes(b"an earlier frame")
    (parameters,) = (c for c in notebook.cells if "parameters" in c.metadata.get("tags", ()))
    names = [line.split(" = ")[0] for line in parameters.source.splitlines()]
    assert names == [line.split(" = ")[0] for line in TINY.split("\n")[1:-1]]
    parameters.source = TINY

    NotebookClient(notebook, timeout=60, kernel_name="python3",
                   resources={"metadata": {"path": str(tmp_path)}}).execute()

    frames = sorted(path.name for path in (tmp_path / "output" / "notebook").iterdir())
    assert frames == sorted(f"generated{i}.png" for i in range(20))
    photo = cv2.imread(str(ROOT / "image" / "test.png")) / 255
    painting = cv2.imread(str(tmp_path / "output" / "notebook" / "generated19.png")) / 255
    assert painting.shape == photo.shape
    assert np.square(painting - photo).mean() < np.square(photo).mean()  # better than black

    shown = {cell.id: [output.get("data", {}) for output in cell.outputs]
             for cell in notebook.cells if cell.cell_type == "code"}
    assert any("image/png" in data for data in shown["result"])
    assert any("data:image/webp;base64," in data.get("text/html", "") for data in shown["video"])
    assert any("image/png" in data for data in shown["error"])
