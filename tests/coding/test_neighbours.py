"""The model of neighbours: what it gains, and against a slow literal twin."""

from __future__ import annotations

import numpy as np
import pytest

from decoct.coding import neighbours
from decoct.coding.neighbours import Layout
from decoct.coding.reader import Reader
from decoct.errors import FormatError

SIDE, UNITS = 16, 100
SHAPE = (UNITS, SIDE * SIDE)


def patches(seed: int = 0) -> np.ndarray:
    """Masks like those of pruned first layers: each unit looks at a blob of a square image."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:SIDE, :SIDE]
    centres = rng.uniform(3, SIDE - 3, (UNITS, 2))
    near = [np.exp(-((y - a) ** 2 + (x - b) ** 2) / 8).ravel() for a, b in centres]
    return (rng.random(SHAPE) < 0.9 * np.stack(near)).astype(np.int8)


def entropy_bytes(mask: np.ndarray) -> float:
    share = mask.mean()
    return float(-mask.size * (share * np.log2(share) + (1 - share) * np.log2(1 - share)) / 8)


def test_patches_cost_far_less_than_independent_entries() -> None:
    mask = patches()
    written = neighbours.best_mask(mask.ravel(), SHAPE)
    assert written is not None
    layout = Layout.read(Reader(written), SHAPE)
    assert layout.turned and layout.period == SIDE
    assert len(written) < 0.8 * entropy_bytes(mask)
    assert (neighbours.decode_mask(Reader(written), SHAPE) == mask.ravel()).all()


def test_masks_without_structure_cost_little_more_than_their_entropy() -> None:
    mask = (np.random.default_rng(0).random((200, 300)) < 0.1).astype(np.int8)
    written = neighbours.best_mask(mask.ravel(), mask.shape)
    assert written is not None
    assert len(written) < 1.04 * entropy_bytes(mask)


def test_signs_of_patches_cost_less_than_a_bit() -> None:
    mask, rng = patches(), np.random.default_rng(1)
    unit_sign = np.where(rng.random((UNITS, 1)) < 0.5, -1, 1) * np.where(rng.random(SHAPE) < 0.1, -1, 1)
    kept = np.flatnonzero(mask)
    negative = np.array([True, True, False, False])
    codes = (unit_sign.ravel()[kept] > 0) * 2 + rng.integers(0, 2, len(kept))
    written = neighbours.best_values(codes.astype(np.int32), negative, kept, SHAPE)
    assert written is not None
    assert 8 * len(written) < 1.75 * len(kept)
    assert (neighbours.decode_values(Reader(written), negative, kept, SHAPE) == codes).all()


def literal_chances(mask: np.ndarray, layout: Layout) -> list[float]:
    """The chances of depth 1, entry by entry in Python."""
    steps, lanes = mask.shape
    near: dict[int, list[int]] = {}
    ones_all = times_all = 0
    expected, found, chances = [0.0] * lanes, [0] * lanes, []

    def at(step: int, lane: int) -> int:
        return int(mask[step, lane]) if step >= 0 else 0

    for step in range(steps):
        seen = []
        for lane in range(lanes):
            period = layout.period
            back = (step - 1, step - period, step - period - 1, step - period + 1)
            context = sum(at(row, lane) << place for place, row in enumerate(back) if row < step)
            root = (256 * ones_all + neighbours.STRENGTH * layout.density) / (256 * (times_all + neighbours.STRENGTH))
            ones, times = near.get(context, [0, 0])
            chance = (ones + neighbours.STRENGTH * root) / (times + neighbours.STRENGTH)
            ratio = (found[lane] + neighbours.LANE_STRENGTH) / (expected[lane] + neighbours.LANE_STRENGTH)
            chances.append(min(max(chance * ratio / (1 - chance + chance * ratio), 2**-16), 1 - 2**-16))
            seen.append((lane, context, chance))
        for lane, context, chance in seen:
            bit = int(mask[step, lane])
            expected[lane] += chance
            found[lane] += bit
            counts = near.setdefault(context, [0, 0])
            near[context] = [counts[0] + bit, counts[1] + 1]
            ones_all, times_all = ones_all + bit, times_all + 1
    return chances


def test_chances_are_those_of_the_literal_model() -> None:
    mask = patches()[:6, :80].T.astype(np.int32)
    layout = Layout(True, 7, depth=1, density=20)
    asked: list[float] = []

    def ask(step: int, chances: np.ndarray) -> np.ndarray:
        asked.extend(chances)
        return mask[step]

    neighbours._walk_mask(layout, mask.shape, ask)
    assert asked == literal_chances(mask, layout)


@pytest.mark.parametrize("turned", [True, False])
@pytest.mark.parametrize("depth", range(len(neighbours.CHAINS)))
def test_every_layout_round_trips(turned: bool, depth: int) -> None:
    mask = patches(3)[:, :60].ravel()
    written = neighbours.encode_mask(mask, (UNITS, 60), Layout(turned, 9, depth, 30))
    assert (neighbours.decode_mask(Reader(written), (UNITS, 60)) == mask).all()


def test_a_sign_that_no_code_has_is_damage() -> None:
    kept, codes = np.arange(0, 600, 3), np.zeros(200, np.int32)
    written = neighbours.best_values(codes, np.array([True]), kept, (20, 30))
    assert written is not None
    with pytest.raises(FormatError):
        neighbours.decode_values(Reader(written), np.array([False]), kept, (20, 30))


def test_hostile_shapes_of_steps_are_refused() -> None:
    with pytest.raises(FormatError, match="layout"):
        neighbours.decode_mask(Reader(bytes([1 | 3 << 1, 9, 2])), (1, neighbours.MOST_STEPS + 1))
