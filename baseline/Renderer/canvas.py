"""Canvases: the layout of an action, compositing, and tiling.

Pictures are BGR.  At rest they are uint8, in flight they are floats in [0, 1].
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F

from Renderer.stroke_gen import SHAPE_DIM, WIDTH

COLOUR_DIM = 3
STROKE_DIM = SHAPE_DIM + COLOUR_DIM  # x0 y0 x1 y1 x2 y2 z0 z2 w0 w2 b g r
BUNDLE = 5  # strokes an action
ACTION_DIM = BUNDLE * STROKE_DIM

# Turns (n, 10) strokes into (n, 128, 128) pictures of 1 - opacity: network or rasteriser.
Render = Callable[[torch.Tensor], torch.Tensor]


def as_float(picture: torch.Tensor) -> torch.Tensor:
    """uint8 in 0..255 to float32 in [0, 1]."""
    return picture.float() / 255


def as_uint8(picture: torch.Tensor) -> torch.Tensor:
    """Float in [0, 1] to the nearest uint8 in 0..255."""
    return (picture * 255 + 0.5).clamp(0, 255).to(torch.uint8)


def split_action(action: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """(B, 65) to the strokes' shapes (B, 5, 10) and colours (B, 5, 3)."""
    strokes = action.reshape(-1, BUNDLE, STROKE_DIM)
    return strokes[..., :SHAPE_DIM], strokes[..., SHAPE_DIM:]


def opacities(render: Render, shapes: torch.Tensor) -> torch.Tensor:
    """The strokes' pictures of opacity: (B, 5, 10) to (B, 5, 1, 128, 128) in [0, 1]."""
    bare = render(shapes.reshape(-1, SHAPE_DIM))
    return 1 - bare.view(-1, BUNDLE, 1, WIDTH, WIDTH)


def paint_strokes(
    render: Render, canvas: torch.Tensor, action: torch.Tensor
) -> list[torch.Tensor]:
    """Paint a bundle: canvas <- (1 - a) canvas + a colour, one stroke after the other.

    canvas: (B, 3, 128, 128) in [0, 1]; action: (B, 65).  Returns the canvas after each of the
    five strokes.
    """
    shapes, colours = split_action(action)
    alpha = opacities(render, shapes)  # (B, 5, 1, 128, 128)
    canvases = []
    for i in range(BUNDLE):
        canvas = torch.lerp(canvas, colours[:, i, :, None, None].to(canvas.dtype), alpha[:, i])
        canvases.append(canvas)
    return canvases


def paint(render: Render, canvas: torch.Tensor, action: torch.Tensor) -> torch.Tensor:
    """The canvas (B, 3, 128, 128) after all five strokes of a bundle."""
    return paint_strokes(render, canvas, action)[-1]


def to_tiles(picture: torch.Tensor) -> torch.Tensor:
    """Cut (B, 3, 128 D, 128 D) into (B D D, 3, 128, 128), row by row."""
    tiles = picture.unfold(2, WIDTH, WIDTH).unfold(3, WIDTH, WIDTH)  # (B, 3, D, D, 128, 128)
    return tiles.permute(0, 2, 3, 1, 4, 5).reshape(-1, picture.shape[1], WIDTH, WIDTH)


def from_tiles(tiles: torch.Tensor, divide: int) -> torch.Tensor:
    """Join (B D D, 3, 128, 128) to (B, 3, 128 D, 128 D): undoes ``to_tiles``."""
    grid = tiles.view(-1, divide, divide, tiles.shape[1], WIDTH, WIDTH)
    return grid.permute(0, 3, 1, 4, 2, 5).reshape(-1, tiles.shape[1], *2 * (divide * WIDTH,))


def smooth_seams(picture: torch.Tensor, divide: int) -> torch.Tensor:
    """Replace the pixels on both sides of each seam between tiles by their 3x3 means.

    picture: (B, 3, 128 D, 128 D).  Means at the picture's edge are over what is inside.
    """
    if divide == 1:
        return picture
    seams = WIDTH * torch.arange(1, divide, device=picture.device)
    rows = torch.cat((seams - 1, seams))  # the same numbers are the columns
    smooth = picture.clone()
    smooth[:, :, rows] = _means_around(picture, rows)
    smooth[:, :, :, rows] = _means_around(picture.mT, rows).mT
    return smooth


def _means_around(picture: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
    """The 3x3 means (B, 3, n, W) around rows (n,), none of them at the picture's edge."""
    tall = (picture[:, :, rows - 1] + picture[:, :, rows] + picture[:, :, rows + 1]) / 3
    return F.avg_pool2d(tall, (1, 3), stride=1, padding=(0, 1), count_include_pad=False)
