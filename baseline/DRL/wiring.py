"""A start for the actor that is wired by hand, so that the step tells it where to paint.

A bundle is read off the mean of the actor's last map, which has 4x4 cells.  Some channels are wired
to carry colours and places to that map, and others to shut all cells of it but one, which the
step says: in the first tenth of a painting the four whose centres are those of the quarters, in
the second tenth the four in the middle, then all 16, row by row and each row from its middle, and
all of them the other way round.  While it learns the gate is open, and each cell is read as if it
were alone: one pass gives the bundles of all cells.
"""

import copy
from collections.abc import Callable, Sequence
from itertools import accumulate

import torch
import torch.nn.functional as F
from torch import nn

from constants import BUNDLE, STEPS, WIDTH
from DRL.actor import Actor, Block
from DRL.layers import STAGES
from Renderer.canvas import STROKE_DIM

CELLS = 4  # a side of the last map
QUARTERS = (5, 7, 13, 15)  # cells in reading order whose centres are those of the quarters
CENTRE = (5, 6, 9, 10)
ALL = tuple(row + column for row in (0, 4, 8, 12) for column in (1, 2, 0, 3))
PASSES = (QUARTERS, CENTRE, ALL, ALL[::-1])  # their cells, a step each
# Of STEPS, the first on the middle, on all cells, and on these a second time.
MIDDLE, EVERY, AGAIN, _ = accumulate(map(len, PASSES))
MEANS = (6, 6, 24, 96, 96)  # channels of colours after the first layer and after each stage
HIDDEN = (0, 8, 24, 96, 103)  # channels that are wired between the first two layers of a stage
STEP, ROW, COLUMN, FINE, SECOND = range(5)  # signs, in the channels after the colours
BASIS = 101  # channels: row - 0, 1, 2 and column - 0, 1, 2 of the cell, where they are positive
COARSE_BASIS = 107  # on quarters alone: 1, and 1 in the lower row, in the right column
COARSE_COLOURS = 110  # on quarters alone: colours of the cells above and left, of the target
BEFORE = 122  # channel: 1 before all cells are painted
WIRED = 123
GATE = 1024  # how fast a gate shuts
LOUD, AWAY = 40, 8  # steps that switches outdo, and that a cell is off which is never painted
UNITS = [0, 1, 2, 3, 4, 21, 22, 23]  # of the gate, in the last block
SHARP = 100.0  # of the switches at a step
SEEN = CELLS**2  # the mean divides a cell that is alone by so much


def stages(actor: Actor) -> tuple[nn.Sequential, ...]:
    """All four, each of two blocks."""
    return actor.layer1, actor.layer2, actor.layer3, actor.layer4


Layer = Callable[[nn.Conv2d, nn.BatchNorm2d, torch.Tensor], torch.Tensor]


def through(actor: Actor, planes: torch.Tensor, layer: Layer) -> torch.Tensor:
    """An actor's last map (B, 512, 4, 4), where ``layer`` gives what each convolution and its
    normalisation make of an input.

    planes: (B, 9, 128, 128).
    """
    x = F.relu(layer(actor.conv1, actor.bn1, planes))
    for block in (block for stage in stages(actor) for block in stage):
        y = F.relu(layer(block.conv1, block.bn1, x))
        x = layer(*block.shortcut, x) if len(block.shortcut) else x
        x = F.relu(layer(block.conv2, block.bn2, y) + x)
    return x


def same(norm: nn.BatchNorm2d, rows: Sequence[int]) -> None:
    """Let channels pass a normalisation as they are."""
    rows = list(rows)
    norm.running_mean[rows], norm.running_var[rows] = 0, 1 - norm.eps
    norm.weight[rows], norm.bias[rows] = 1, 0


class Wiring:
    """Channels of an actor that are set by hand, the others by chance; see the module.

    wired: by normalisation, how many of its first channels are.
    """

    def __init__(self, actor: Actor) -> None:
        self.actor, self.wired = actor, dict[nn.BatchNorm2d, int]()
        with torch.no_grad():
            for module in actor.modules():
                if isinstance(module, nn.Conv2d):
                    nn.init.kaiming_normal_(module.weight)
            self._first_layer()
            for stage, block in enumerate(stages(actor), 1):
                self._clear(block, HIDDEN[stage], WIRED if stage == 4 else MEANS[stage] + 5)
                self._carry_colours(block[0], stage)
                self._carry_signs(block, stage)
            self._switches()
            self._basis()
            self._quarters()

    def _rows(self, conv: nn.Conv2d, norm: nn.BatchNorm2d, count: int) -> None:
        conv.weight[:count] = 0
        same(norm, range(count))
        self.wired[norm] = count

    def _first_layer(self) -> None:
        """Means of 2x2 windows of canvas and target, the step, row and column, two switches."""
        conv, norm = self.actor.conv1, self.actor.bn1
        self._rows(conv, norm, 11)
        for plane in range(6):
            conv.weight[plane, plane, 1:, 1:] = 1 / 4
        for sign in (STEP, ROW, COLUMN):
            conv.weight[6 + sign, 6 + sign, 1, 1] = 1
        for sign, step in ((FINE, MIDDLE), (SECOND, AGAIN)):  # 0 before the step, then 25 or more
            conv.weight[6 + sign, 6, 1, 1] = STEPS * SHARP
            norm.bias[6 + sign] = (0.25 - step) * SHARP

    def _clear(self, blocks: nn.Sequential, hidden: int, out: int) -> None:
        first, second = blocks
        self._rows(first.conv1, first.bn1, hidden)
        for conv, norm in ((first.conv2, first.bn2), first.shortcut, (second.conv2, second.bn2)):
            self._rows(conv, norm, out)

    def _carry_signs(self, blocks: nn.Sequential, stage: int) -> None:
        for sign in range(5):
            blocks[0].shortcut[0].weight[MEANS[stage] + sign, MEANS[stage - 1] + sign] = 1

    def _carry_colours(self, block: Block, stage: int) -> None:
        """Windows of 4x4 pixels side by side, of a cell 8x8; 16 times as large in the end."""
        conv = block.conv1.weight
        side = {1: 1, 2: 2, 3: 4, 4: 4}[stage]  # windows a side of what a channel's place sees
        for hidden in range(MEANS[stage]):
            plane, (y, x) = hidden // side**2, divmod(hidden % side**2, side)
            if stage == 1:
                conv[hidden, plane, 1:, 1:] = 1 / 4
            elif stage == 4:
                at = 16 * plane + 8 * (y % 2) + 2 * (x % 2)
                conv[hidden, [at, at + 1, at + 4, at + 5], 1 + y // 2, 1 + x // 2] = 1 / 4
            else:
                inside = side // 2
                at = (plane * inside + y % inside) * inside + x % inside
                conv[hidden, at, 1 + y // inside, 1 + x // inside] = 1
            block.conv2.weight[hidden, hidden, 1, 1] = SEEN if stage == 4 else 1

    def _switches(self) -> None:
        """The first layer's switches are large; from the first stage on they are 0 or 1."""
        block = self.actor.layer1[0]
        for conv in (block.conv1, block.shortcut[0]):
            conv.weight[:, [6 + FINE, 6 + SECOND]] = 0
        for hidden, sign in ((6, FINE), (7, SECOND)):
            block.conv1.weight[hidden, 6 + sign, 1, 1], block.bn1.bias[hidden] = -1, 1
            block.conv2.weight[6 + sign, hidden, 1, 1], block.bn2.bias[6 + sign] = -1, 1

    def _basis(self) -> None:
        """Any function of a cell's row, or column, is linear in its three numbers; a switch."""
        block = self.actor.layer4[0]
        for number in range(6):
            hidden, sign = MEANS[4] + number, (ROW, COLUMN)[number // 3]
            block.conv1.weight[hidden, MEANS[3] + sign, 1, 1] = (WIDTH - 1) / (WIDTH // CELLS)
            block.bn1.bias[hidden] = -(number % 3)
            block.conv2.weight[BASIS + number, hidden, 1, 1] = SEEN
        hidden = MEANS[4] + 6  # 0 before the step, then 25 or more
        block.conv1.weight[hidden, MEANS[3] + STEP, 1, 1] = STEPS * SHARP
        block.bn1.bias[hidden] = (0.25 - EVERY) * SHARP
        block.conv2.weight[:, hidden] = 0
        block.conv2.weight[BEFORE, hidden, 1, 1], block.bn2.bias[BEFORE] = -1, 1

    def _quarters(self) -> None:
        """What the last layer needs on quarters, and that it has no colours of a cell there.

        UNITS of the last block are left to the gate.
        """
        block, fine = self.actor.layer4[1], MEANS[4] + FINE
        conv, bias = block.conv1.weight, block.bn1.bias
        conv[24:, [*range(MEANS[4]), *range(BASIS, BASIS + 6)]] /= SEEN
        conv[24:, COARSE_BASIS:WIRED] = 0
        self._rows(block.conv1, block.bn1, 24)
        conv[5, fine, 1, 1], bias[5] = -1, 1
        for hidden, last in ((6, BASIS + 2), (7, BASIS + 5)):
            conv[hidden, last, 1, 1], conv[hidden, fine, 1, 1] = 1 / SEEN, -1
        for number in range(3):
            block.conv2.weight[COARSE_BASIS + number, 5 + number, 1, 1] = SEEN
        conv[8, fine, 1, 1], bias[8] = -2 * SEEN, 2 * SEEN
        block.conv2.weight[: MEANS[4], 8, 1, 1] = -1
        for number in range(12):
            (colour, cell), hidden = divmod(number, 4), 9 + number
            windows = slice(16 * (3 + colour), 16 * (4 + colour))
            conv[hidden, windows, cell // 2, cell % 2] = 1 / SEEN / 16
            conv[hidden, fine, 1, 1] = -LOUD
            block.conv2.weight[COARSE_COLOURS + number, hidden, 1, 1] = SEEN

    @torch.no_grad()
    def calibrate(self, planes: torch.Tensor) -> None:
        """Normalise what is not wired by the statistics of some states (B, 9, 128, 128)."""
        second = {block.bn2 for stage in stages(self.actor) for block in stage}

        def layer(conv: nn.Conv2d, norm: nn.BatchNorm2d, x: torch.Tensor) -> torch.Tensor:
            x = conv(x)
            free = slice(self.wired.get(norm, 0), None)
            norm.running_var[free], norm.running_mean[free] = (
                statistic[free] for statistic in torch.var_mean(x, (0, 2, 3)))
            norm.running_var[free] += 1e-4
            if norm in second:
                norm.weight[free] = 0.5
            return norm(x)

        through(self.actor, planes, layer)


def fixed(actor: Actor, by_hand: bool = False) -> list[tuple[torch.Tensor, tuple]]:
    """What must stay as it is, so that the gate works: parameters, statistics, places in them.

    by_hand: only what is the same in all actors.
    """
    def rows(conv: nn.Conv2d, norm: nn.BatchNorm2d, *numbers: int) -> None:
        found.extend((t, (list(numbers),)) for t in (
            conv.weight, norm.weight, norm.bias, norm.running_mean, norm.running_var))

    found: list[tuple[torch.Tensor, tuple]] = []
    every = slice(None)
    rows(actor.conv1, actor.bn1, *range(MEANS[0], MEANS[0] + 5))
    for stage, (first, second) in enumerate(stages(actor), 1):
        signs = range(MEANS[stage], COARSE_COLOURS if stage == 4 else MEANS[stage] + 5)
        for pair in ((first.conv2, first.bn2), first.shortcut, (second.conv2, second.bn2)):
            rows(*pair, *signs, *[BEFORE] * (stage == 4))
    block, (first, last) = actor.layer1[0], actor.layer4
    rows(block.conv1, block.bn1, 6, 7)
    found.extend((conv.weight, (every, [6 + FINE, 6 + SECOND]))
                 for conv in (block.conv1, block.shortcut[0]))
    rows(first.conv1, first.bn1, *range(MEANS[4], HIDDEN[4]))
    found.append((first.conv2.weight, (every, HIDDEN[4] - 1)))
    rows(last.conv1, last.bn1, *UNITS, *range(5, 9))
    if not by_hand:
        found += [(block.conv2.weight, (every, [6, 7])),
                  (last.conv2.weight, (every, [*UNITS, *range(5, 9)]))]
    return found


@torch.no_grad()
def shut(actor: Actor) -> Actor:
    """A copy with its gate at work: the actor that paints."""
    actor = copy.deepcopy(actor)
    block = actor.layer4[1]
    conv, bias, norm = block.conv1.weight, block.bn1.bias, block.bn2
    scale = norm.weight * torch.rsqrt(norm.running_var + norm.eps)
    shift = norm.bias - norm.running_mean * scale
    block.conv2.weight *= scale[:, None, None, None]
    same(norm, range(STAGES[-1]))
    norm.bias.copy_(shift)
    conv[UNITS] = 0
    same(block.bn1, UNITS)
    step, fine, second = (MEANS[4] + sign for sign in (STEP, FINE, SECOND))
    late, early = 1, -1

    def unit(
        number: int, sign: int, offset: float, weights: dict[int, int], *places: tuple[int, ...]
    ) -> None:
        """Shuts where sign (STEPS step + weights signs - f(row) - g(column) - offset) > 0.

        places: f and g, by the three numbers of a row and a column.
        """
        conv[number, step, 1, 1] = sign * STEPS * GATE
        for channel, weight in weights.items():
            conv[number, channel, 1, 1] = sign * weight * GATE
        for channel, value in enumerate(sum(places, ()), BASIS):
            conv[number, channel, 1, 1] = -sign * value * GATE / SEEN
        bias[number] = -sign * offset * GATE

    # All cells: n = 4 row + (2, 0, 1, 3)[column] steps after the first.
    rows, columns = (4, 0, 0), (-2, 3, 1)
    unit(0, late, EVERY + 2.75, {second: -LOUD}, rows, columns)
    unit(1, early, EVERY + 1.75, {BEFORE: LOUD}, rows, columns)
    # Back again: n steps before the last.  The last unit undoes that before it where n is 0.
    rows, columns = (-4, 0, 0), (2, -3, -1)
    unit(22, early, STEPS - 3.25 - LOUD, {second: -LOUD}, rows, columns)
    unit(21, late, STEPS - 2.25 + AWAY, {second: AWAY}, rows, columns)
    unit(23, late, STEPS - 0.25 + 2 * AWAY, {second: AWAY}, (AWAY, 0, 0), (-AWAY, 2 * AWAY, 0))
    # Quarters and middle: 2 f(row) + f(column) steps after the first, f 0 and 1 in those that count
    # and AWAY in others, which is early for ever.
    unit(2, late, 0.75 + LOUD, {fine: -MIDDLE, BEFORE: LOUD}, (0, 2, -2), (0, 1, -1))
    unit(3, early, 3 * AWAY - 0.25, {fine: LOUD},
         (-2 * AWAY, 4 * AWAY, 2 - 4 * AWAY), (-AWAY, 2 * AWAY, 1 - 2 * AWAY))
    unit(4, early, 3 * AWAY + MIDDLE - 0.25 - 2 * LOUD, {fine: -LOUD, BEFORE: -LOUD},
         (-2 * AWAY, 2 + 2 * AWAY, 2 * AWAY - 4), (-AWAY, 1 + AWAY, AWAY - 2))
    open_gate(actor)
    block.conv2.weight[:, UNITS, 1, 1] = -1
    block.conv2.weight[:, 23, 1, 1] = 1
    return actor


def is_wired(actor: Actor) -> bool:
    """Whether an actor's third stage carries the signs."""
    carried = actor.layer3[0].shortcut[0].weight[MEANS[3] : MEANS[3] + 5, :, 0, 0]
    wanted = torch.zeros_like(carried)
    wanted[range(5), range(MEANS[2], MEANS[2] + 5)] = 1
    return actor.bundle == BUNDLE and torch.equal(carried, wanted)


@torch.no_grad()
def open_gate(actor: Actor) -> None:
    """Let an actor see all cells again."""
    actor.layer4[1].conv2.weight[:, UNITS] = 0


# By row and column, as shares of a cell or quarter, and radius, as a share of its side: five discs.
LAYOUT = ((1 / 2, 1 / 2, 9 / 32), *((y, x, 6 / 32) for y in (1 / 4, 3 / 4) for x in (1 / 4, 3 / 4)))


def plain_strokes(target: torch.Tensor, cells: int, opacity: float) -> torch.Tensor:
    """Five short strokes in the mean colour around them, for each of cells x cells cells.

    target: (B, 3, 128, 128) in [0, 1].  Returns (B, cells**2, 13 BUNDLE).
    """
    side = WIDTH // cells
    means = F.avg_pool2d(target, side // 2, side // 4)
    strokes = target.new_zeros(len(target), cells**2, BUNDLE, STROKE_DIM)
    for cell in range(cells**2):
        for number, (y, x, radius) in enumerate(LAYOUT):
            row, column = (side * (cell // cells + y), side * (cell % cells + x))
            half, radius = side * 5 / 32, (side * radius - 1) / (WIDTH / 2)
            strokes[:, cell, number, :10] = strokes.new_tensor([
                row / WIDTH, (column - half) / WIDTH, 0.5, 0.5, row / WIDTH,
                (column + half) / WIDTH, radius, radius, opacity, opacity])
            top, left = (int(v) * 4 // side - 1 for v in (row, column))
            strokes[:, cell, number, 10:] = means[:, :, top, left]
    return strokes.flatten(2)
