"""Canvases: the layout of an action, and compositing.

Pictures are BGR.  At rest they are uint8, in flight they are floats in [0, 1].
"""

from collections.abc import Callable

import torch

from constants import WIDTH
from Renderer.stroke_gen import SHAPE_DIM

COLOUR_DIM = 3
STROKE_DIM = SHAPE_DIM + COLOUR_DIM  # x0 y0 x1 y1 x2 y2 z0 z2 w0 w2 b g r

# Turns (n, 10) strokes into (n, 128, 128) pictures of 1 - opacity: network or rasteriser.
Render = Callable[[torch.Tensor], torch.Tensor]


def as_float(picture: torch.Tensor) -> torch.Tensor:
    """uint8 in 0..255 to float32 in [0, 1]."""
    return picture.float() / 255


def as_uint8(picture: torch.Tensor) -> torch.Tensor:
    """Float in [0, 1] to the nearest uint8 in 0..255."""
    return (picture * 255 + 0.5).clamp(0, 255).to(torch.uint8)


def split_action(action: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """(B, 13 N) to the strokes' shapes (B, N, 10) and colours (B, N, 3)."""
    strokes = action.unflatten(1, (-1, STROKE_DIM))
    return strokes[..., :SHAPE_DIM], strokes[..., SHAPE_DIM:]


def opacities(render: Render, shapes: torch.Tensor) -> torch.Tensor:
    """The strokes' pictures of opacity: (B, N, 10) to (B, N, 1, 128, 128) in [0, 1]."""
    bare = render(shapes.reshape(-1, SHAPE_DIM))
    return 1 - bare.view(*shapes.shape[:2], 1, WIDTH, WIDTH)


def paint_strokes(
    render: Render, canvas: torch.Tensor, action: torch.Tensor
) -> list[torch.Tensor]:
    """Paint a bundle: canvas <- (1 - a) canvas + a colour, one stroke after the other.

    canvas: (B, 3, 128, 128) in [0, 1]; action: (B, 13 N).  Returns the canvas after each of the
    N strokes.
    """
    shapes, colours = split_action(action)
    alpha = opacities(render, shapes)  # (B, N, 1, 128, 128)
    canvases = []
    for i in range(shapes.shape[1]):
        canvas = torch.lerp(canvas, colours[:, i, :, None, None].to(canvas.dtype), alpha[:, i])
        canvases.append(canvas)
    return canvases


def composite(render: Render, canvas: torch.Tensor, action: torch.Tensor) -> torch.Tensor:
    """The canvas (B, 3, 128, 128) after all strokes of a bundle."""
    return paint_strokes(render, canvas, action)[-1]
