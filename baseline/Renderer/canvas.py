"""The layout of an action, and compositing of strokes on canvases.

Pictures are BGR: uint8 in memory, floats in [0, 1] in arithmetic.
"""

from collections.abc import Callable

import torch

from constants import WIDTH
from Renderer.stroke_gen import SHAPE_DIM

COLOR_DIM = 3
STROKE_DIM = SHAPE_DIM + COLOR_DIM  # x0 y0 x1 y1 x2 y2 z0 z2 w0 w2 b g r

# Maps (n, 10) strokes to (n, 128, 128) pictures of 1 - opacity: network or rasterizer.
Render = Callable[[torch.Tensor], torch.Tensor]


def as_float(picture: torch.Tensor) -> torch.Tensor:
    """Convert uint8 in 0..255 to float32 in [0, 1]."""
    return picture.float() / 255


def as_uint8(picture: torch.Tensor) -> torch.Tensor:
    """Round floats in [0, 1] to uint8 in 0..255."""
    return (picture * 255 + 0.5).clamp(0, 255).to(torch.uint8)


def split_action(action: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the shapes (B, N, 10) and colors (B, N, 3) of the strokes of actions (B, 13 N)."""
    strokes = action.unflatten(1, (-1, STROKE_DIM))
    return strokes[..., :SHAPE_DIM], strokes[..., SHAPE_DIM:]


def composite(render: Render, canvas: torch.Tensor, action: torch.Tensor) -> torch.Tensor:
    """Paint an action: canvas <- (1 - a) canvas + a color, for one stroke after the other.

    canvas: (B, 3, 128, 128) in [0, 1]; action: (B, 13 N).  Returns the canvas after all N strokes.
    """
    shapes, colors = split_action(action)
    transparency = render(shapes.reshape(-1, SHAPE_DIM))
    alpha = 1 - transparency.view(*shapes.shape[:2], 1, WIDTH, WIDTH)  # (B, N, 1, 128, 128)
    for i in range(shapes.shape[1]):
        canvas = torch.lerp(canvas, colors[:, i, :, None, None].to(canvas.dtype), alpha[:, i])
    return canvas
