"""The inner loops of a training step on a GPU, in Triton: the recurrence with its adjoint, and the softmax.

Logits and the steps of the recurrence's tree never leave a program's registers; what is summed over positions or lanes
is written in parts. What they compute is tested against plain PyTorch, in Triton's interpreter where there is no GPU.
"""
# ruff: noqa: N803 (a kernel's constants)

from typing import Any, Final

import torch
import triton
import triton.language as tl
from torch import Tensor

from training.model.packing import Packing, pack
from training.model.seen import Mask

STEPS_PER_TILE, UNITS_PER_TILE = 32, 32
"""What a program of the recurrence has in its registers at a time, of one lane."""
POSITIONS_PER_TILE, ITEMS_PER_TILE = 64, 64
"""What a program of the softmax has the logits of in its registers at a time."""
PROGRAMS = 512
"""How many keep a GPU busy: for a small catalogue, the positions are cut into parts that are summed up afterwards."""
NARROWEST, WIDEST = 16, 128
"""Columns of a product: Triton's least, and the most that a tile of the softmax has room for on every GPU."""
LEFT_OUT: Final = tl.constexpr(-1e30)
"""Logit of an item that is no candidate: as in full_softmax.py."""


def scan(decay: Tensor, inputs: Tensor, packing: Packing) -> Tensor:
    """All states of the recurrence that `training.model.scan` describes."""
    states = inputs.new_empty(inputs.shape)
    _run_scan(decay, inputs, None, states, None, packing)
    return states


def scan_back(decay: Tensor, states: Tensor, grad_states: Tensor, packing: Packing) -> tuple[Tensor, Tensor]:
    """Its adjoint: the gradients of `inputs` and of `decay`."""
    grad_inputs = states.new_empty(states.shape)
    grad_decay = decay.new_empty(packing.alive, len(decay))
    _run_scan(decay, grad_states, states, grad_inputs, grad_decay, packing)
    return grad_inputs, grad_decay.sum(0)


def softmax(
    query: Tensor, embedding: Tensor, bias: Tensor, mass: Tensor, dtype: torch.dtype, mask: Mask | None
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """What `full_softmax` asks of its arithmetic, for D of at most `WIDEST`: the fields of its `_Expected`."""
    (positions, width), items = query.shape, len(embedding)
    queries, rows = query.to(dtype).contiguous(), embedding.to(dtype).contiguous()
    expected, normaliser = query.new_empty(query.shape), query.new_empty(positions)
    blocks = triton.cdiv(items, ITEMS_PER_TILE)
    parts = triton.cdiv(PROGRAMS, blocks)
    sums, bias_sums = query.new_empty(parts, items, width), query.new_empty(parts, items)
    had = [each.contiguous() for each in mask] if mask else [None, None, None]
    given = queries, rows, bias.contiguous(), mass, *had
    sizes: dict[str, Any] = {
        "positions": positions,
        "items": items,
        "WIDTH": width,
        "POSITIONS": POSITIONS_PER_TILE,
        "ITEMS": ITEMS_PER_TILE,
        "COLUMNS": max(triton.next_power_of_2(width), NARROWEST),
    }
    _of_positions[triton.cdiv(positions, POSITIONS_PER_TILE),](*given, expected, normaliser, **sizes)
    _of_items[blocks, parts](*given, normaliser, sums, bias_sums, **sizes)
    return expected, normaliser, sums.sum(0), bias_sums.sum(0)


def probe(device: str = "cuda") -> None:
    """Run every kernel once, whatever it takes to compile and start them, and see that it computes what it should.

    Raises:
        AssertionError: it does not.
        Exception: whatever Triton raises, if they cannot be run here.
    """
    length = 2 * STEPS_PER_TILE + 3
    packing, half = pack([length, 1]), torch.tensor([0.5, 0.0], device=device)
    ones = torch.tensor([1.0, 0.0], device=device).expand(length + 1, 2)
    states = scan(half, ones, packing)
    torch.testing.assert_close(states[-1], 4 * half)  # 1 + 1/2 + 1/4 + …
    of_inputs, of_decay = scan_back(half, states, ones, packing)
    torch.testing.assert_close(of_inputs[0], states[-1])
    torch.testing.assert_close(of_decay, (of_inputs[2:] * states[[0, *range(2, length)]][:, :1]).sum(0))
    rows = torch.linspace(-1, 1, 3 * NARROWEST, device=device).view(3, NARROWEST)
    weights = torch.softmax(rows @ rows.T, 1)
    expected, _, sums, _ = softmax(rows, rows, rows.new_zeros(3), rows.new_ones(3), torch.bfloat16, None)
    torch.testing.assert_close((expected, sums), (weights @ rows, weights.T @ rows), atol=0.05, rtol=0.05)


def _run_scan(
    decay: Tensor, inputs: Tensor, before: Tensor | None, states: Tensor, of_decay: Tensor | None, packing: Packing
) -> None:
    if not packing.alive:
        return
    offsets, lengths = (torch.from_numpy(each).to(inputs.device) for each in (packing.offsets, packing.lengths))
    units = len(decay) // 2
    sizes = {"UNITS": units, "STEPS": STEPS_PER_TILE, "BLOCK": min(triton.next_power_of_2(units), UNITS_PER_TILE)}
    given = decay.contiguous(), inputs.contiguous(), before, states, of_decay, offsets, lengths
    _scan[packing.alive, triton.cdiv(units, sizes["BLOCK"])](*given, **sizes)


@triton.jit
def _compose(a_real, a_imag, b_real, b_imag, c_real, c_imag, d_real, d_imag):
    """First h ↦ a h + b, then h ↦ c h + d."""
    return (
        c_real * a_real - c_imag * a_imag,
        c_real * a_imag + c_imag * a_real,
        c_real * b_real - c_imag * b_imag + d_real,
        c_real * b_imag + c_imag * b_real + d_imag,
    )


@triton.jit
def _scan(
    decay,
    inputs,
    before,  # None for the recurrence; for its adjoint the states, while `inputs` and `states` are gradients
    states,
    of_decay,  # [lanes, 2 UNITS] with `before`: each lane's share of λ's gradient, Σ conj(h of the step before) ⊙ state
    offsets,
    lengths,
    UNITS: tl.constexpr,
    STEPS: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """The adjoint goes back in time, with λ's conjugate."""
    lane = tl.program_id(0).to(tl.int64)
    unit = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    in_row = unit < UNITS
    length = tl.load(lengths + lane).to(tl.int32)
    decay_real, decay_imag = tl.load(decay + unit, in_row, 0.0), tl.load(decay + UNITS + unit, in_row, 0.0)
    if before is not None:
        decay_imag = -decay_imag
    real, imag = tl.zeros([BLOCK], tl.float32), tl.zeros([BLOCK], tl.float32)
    sum_real, sum_imag = tl.zeros([BLOCK], tl.float32), tl.zeros([BLOCK], tl.float32)
    step, zeros = tl.arange(0, STEPS), tl.zeros([STEPS, BLOCK], tl.float32)
    is_last = (step == STEPS - 1)[:, None]
    for begin in range(0, length, STEPS):
        in_lane = begin + step < length
        time = begin + step if before is None else length - 1 - begin - step
        inside = in_lane[:, None] & in_row[None, :]
        at = (tl.load(offsets + time, in_lane, 0) + lane)[:, None] * (2 * UNITS) + unit[None, :]
        input_real = tl.load(inputs + at, inside, 0.0).to(tl.float32)
        input_imag = tl.load(inputs + at + UNITS, inside, 0.0).to(tl.float32)
        # The steps of this tile as one: all prefixes at a time. Then what came before the tile.
        each = zeros + decay_real[None, :], zeros + decay_imag[None, :], input_real, input_imag
        power_real, power_imag, state_real, state_imag = tl.associative_scan(each, 0, _compose)
        state_real += power_real * real[None, :] - power_imag * imag[None, :]
        state_imag += power_real * imag[None, :] + power_imag * real[None, :]
        real = tl.sum(tl.where(is_last, state_real, 0.0), 0)
        imag = tl.sum(tl.where(is_last, state_imag, 0.0), 0)
        tl.store(states + at, state_real.to(states.dtype.element_ty), inside)
        tl.store(states + at + UNITS, state_imag.to(states.dtype.element_ty), inside)
        if before is not None:
            has_one = in_lane & (time > 0)
            inside = has_one[:, None] & in_row[None, :]
            at = (tl.load(offsets + time - 1, has_one, 0) + lane)[:, None] * (2 * UNITS) + unit[None, :]
            before_real = tl.load(before + at, inside, 0.0).to(tl.float32)
            before_imag = tl.load(before + at + UNITS, inside, 0.0).to(tl.float32)
            sum_real += tl.sum(before_real * state_real + before_imag * state_imag, 0)
            sum_imag += tl.sum(before_real * state_imag - before_imag * state_real, 0)
    if before is not None:
        tl.store(of_decay + lane * (2 * UNITS) + unit, sum_real, in_row)
        tl.store(of_decay + lane * (2 * UNITS) + UNITS + unit, sum_imag, in_row)


@triton.jit
def _rows(matrix, row, rows, WIDTH: tl.constexpr, COLUMNS: tl.constexpr):
    """These rows of a matrix [rows, WIDTH], zero where there is none."""
    column = tl.arange(0, COLUMNS)
    inside = (row < rows)[:, None] & (column < WIDTH)[None, :]
    return tl.load(matrix + row[:, None] * WIDTH + column[None, :], inside, 0.0)


@triton.jit
def _logits(query, row, bias, lane, time, first, position, item, positions, items):
    """[P, I], for queries [P, COLUMNS] and rows [I, COLUMNS]; what a position has had is left out."""
    inside = item < items
    logits = tl.dot(query, row.T, input_precision="ieee") + tl.load(bias + item, inside, 0.0)[None, :]
    is_candidate = inside[None, :]
    if first is not None:
        inside = (position < positions)[:, None] & inside[None, :]
        since = tl.load(first + tl.load(lane + position, position < positions, 0)[:, None] * items + item, inside, 0)
        is_candidate = inside & (since > tl.load(time + position, position < positions, 0)[:, None])
    return tl.where(is_candidate, logits, LEFT_OUT)


@triton.jit(do_not_specialize=["positions"])
def _of_positions(
    queries,
    rows,
    bias,
    mass,
    lane,
    time,
    first,
    expected,  # [T, D] the rows' mean under each position's probabilities, times its mass
    normaliser,  # [T] the logarithm of each softmax' denominator
    positions,
    items,
    WIDTH: tl.constexpr,
    POSITIONS: tl.constexpr,
    ITEMS: tl.constexpr,
    COLUMNS: tl.constexpr,
):
    position = tl.program_id(0).to(tl.int64) * POSITIONS + tl.arange(0, POSITIONS)
    largest, total = tl.full([POSITIONS], -3e38, tl.float32), tl.zeros([POSITIONS], tl.float32)
    mean = tl.zeros([POSITIONS, COLUMNS], tl.float32)
    query = _rows(queries, position, positions, WIDTH, COLUMNS)
    for begin in range(0, items, ITEMS):
        item = begin + tl.arange(0, ITEMS).to(tl.int64)
        row = _rows(rows, item, items, WIDTH, COLUMNS)
        logits = _logits(query, row, bias, lane, time, first, position, item, positions, items)
        new = tl.maximum(largest, tl.max(logits, 1))
        weight, kept = tl.exp(logits - new[:, None]), tl.exp(largest - new)
        total = total * kept + tl.sum(weight, 1)
        mean = tl.dot(weight.to(row.dtype), row, mean * kept[:, None], input_precision="ieee")
        largest = new
    inside, column = position < positions, tl.arange(0, COLUMNS)
    scale = tl.load(mass + position, inside, 0.0) / total
    at = position[:, None] * WIDTH + column[None, :]
    tl.store(expected + at, mean * scale[:, None], inside[:, None] & (column[None, :] < WIDTH))
    tl.store(normaliser + position, largest + tl.log(total), inside)


@triton.jit(do_not_specialize=["positions"])
def _of_items(
    queries,
    rows,
    bias,
    mass,
    lane,
    time,
    first,
    normaliser,
    sums,  # [parts, N, D] over the positions of a part: an item's probability, times the mass, times the query
    bias_sums,  # [parts, N] the same without the query
    positions,
    items,
    WIDTH: tl.constexpr,
    POSITIONS: tl.constexpr,
    ITEMS: tl.constexpr,
    COLUMNS: tl.constexpr,
):
    item = tl.program_id(0).to(tl.int64) * ITEMS + tl.arange(0, ITEMS)
    part = tl.program_id(1)
    row = _rows(rows, item, items, WIDTH, COLUMNS)
    summed, bias_summed = tl.zeros([ITEMS, COLUMNS], tl.float32), tl.zeros([ITEMS], tl.float32)
    for begin in range(part * POSITIONS, positions, tl.num_programs(1) * POSITIONS):
        position = begin + tl.arange(0, POSITIONS).to(tl.int64)
        query = _rows(queries, position, positions, WIDTH, COLUMNS)
        logits = _logits(query, row, bias, lane, time, first, position, item, positions, items)
        inside = position < positions
        shift = tl.load(normaliser + position, inside, float("inf"))
        weight = tl.exp(logits - shift[:, None]) * tl.load(mass + position, inside, 0.0)[:, None]
        summed = tl.dot(weight.T.to(query.dtype), query, summed, input_precision="ieee")
        bias_summed += tl.sum(weight, 0)
    column, at = tl.arange(0, COLUMNS), part.to(tl.int64) * items + item
    inside = item < items
    tl.store(sums + at[:, None] * WIDTH + column[None, :], summed, inside[:, None] & (column[None, :] < WIDTH))
    tl.store(bias_sums + at, bias_summed, inside)
