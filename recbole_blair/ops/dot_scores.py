"""Products of users with one table of all items, made for ranking each user's target."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from recbole_blair.ops.device import ALIGNED, CACHE_BYTES
from recbole_blair.ops.linear import product
from recbole_blair.ops.ranking import count_above_and_equal, drop_scores, middle_ranks, rank_in_chunks, rank_targets
from recbole_blair.ops.softmax import SUM_PART
from recbole_blair.ops.switch import plain_ops

SHIFT_PARTS = 3  # bfloat16 numbers that hold a float32 one: three times eight bits
OWN_AT_ONCE = 128  # users whose targets' scores are taken from one small product


class DotScores:
    """Scores of users and items as products with one table of item vectors.

    Coarse scores take bfloat16 inputs and float32 sums. They are written as bfloat16, less the score of the user's own
    target: rounding keeps the sign of a difference, which is all that a rank needs, while bfloat16 scores as they are
    would tie by the hundred. The subtraction is part of the product: users get the target's score, in three parts, as
    further columns, items get ones. Widths, and on a GPU items, are padded with zeros to whole 16 bytes.

    Under `use_ops("plain")` ranks are counted in the rows of `scores`.

    Args:
        table (N, H): item vectors, row 0 the padding item's.
        coarse: see above; False takes the table's own dtype.
        max_elements: scores held at a time.
    """

    def __init__(self, table: Tensor, coarse: bool = False, max_elements: int = 1 << 25) -> None:
        self.coarse, self.max_elements = coarse, max_elements
        self.buffer: Tensor | None = None
        self.n_items, self.hidden = table.shape
        self.on_cpu = table.device.type == "cpu"
        if coarse:
            table = F.pad(table.bfloat16(), (0, SHIFT_PARTS), value=1.0)  # (N, H + 3)
        self.missing = 0 if self.on_cpu and not coarse else -table.shape[1] % ALIGNED
        self.table = pad_zeros(table, self.missing, 0 if self.on_cpu else -len(table) % ALIGNED)

    def ranks(self, users: Tensor, target: Tensor, dropped: tuple[Tensor, Tensor] | None = None) -> np.ndarray:
        """Rank each user's target among all items.

        Args:
            users (B, H); target (B,) int64: item ids.
            dropped: (row, column) of scores to leave out, two int64 tensors; no target's among them.

        Returns:
            (B,) float64, as of `rank_targets`.

        Raises:
            FloatingPointError: a score is not a number.
        """
        rows = max(1, self.max_elements // self.n_items)
        if plain_ops():
            return rank_in_chunks(lambda part: self.scores(users[part]), target, dropped, rows)
        if self.on_cpu:
            return self.rank_by_items(users, target, dropped)
        return rank_in_chunks(lambda part: self.scores_against(users[part], target[part]), target, dropped, rows)

    def rank_by_items(self, users: Tensor, target: Tensor, dropped: tuple[Tensor, Tensor] | None) -> np.ndarray:
        """Rank as `ranks`, a block of items at a time: scores are compared while they are in the cache.

        That needs the targets' own scores first. They come from small products of the same kind; a row whose target
        comes out otherwise in its block, by another order of summation, is ranked from its whole row.
        """
        extended = self.extend_users(users, target)
        own = self.own_scores(extended, target)  # (B, 1)
        counts, settled = np.zeros((2, len(users))), torch.ones(len(users), dtype=torch.bool)
        start = 1  # the block's first item
        for block in self.table[1:].split(self.block_width(len(users))):
            scores = product(extended, block.T)  # (B, items of the block)
            here = ((target >= start) & (target < start + len(block))).nonzero().squeeze(1)
            settled[here] = scores[here, target[here] - start] == own[here, 0]
            drop_scores(scores, dropped, first_column=start)
            counts += count_above_and_equal(scores, own)
            start += len(block)
        counts[1, ~settled.numpy()] = 1.0  # whatever they were: these ranks are made anew
        ranks = middle_ranks(*counts)
        for row in (~settled).nonzero().squeeze(1).tolist():
            scores = self.scores_against(users[row : row + 1], target[row : row + 1])
            drop_scores(scores, dropped, row)
            ranks[row] = rank_targets(scores, target[row : row + 1])[0]
        return ranks

    def block_width(self, n_users: int) -> int:
        """Items whose scores with so many users fit the cache and `max_elements`; a whole number of `SUM_PART`."""
        width = min(CACHE_BYTES // self.table.element_size(), self.max_elements) // max(1, n_users)
        return max(1, width - width % SUM_PART if width > SUM_PART else width)

    def own_scores(self, extended: Tensor, target: Tensor) -> Tensor:
        """The score of each user's own target, (B, 1), of users that `extend_users` gave."""
        batches = zip(extended.split(OWN_AT_ONCE), target.split(OWN_AT_ONCE), strict=True)
        return torch.cat([product(users, self.table[items].T).diagonal() for users, items in batches])[:, None]

    def scores_against(self, users: Tensor, target: Tensor) -> Tensor:
        """Scores to compare with the target's own; valid until the next call.

        Args:
            users (b, H); target (b,) int64: item ids.

        Returns:
            (b, N): float32, or bfloat16 and shifted when coarse.
        """
        users = self.extend_users(users, target)
        if self.buffer is None or len(self.buffer) < len(users):
            self.buffer = users.new_empty(len(users), len(self.table))
        return torch.mm(users, self.table.T, out=self.buffer[: len(users)])[:, : self.n_items]

    def extend_users(self, users: Tensor, target: Tensor) -> Tensor:
        """Users (b, as wide as the table) for products with it: when coarse, less the target's, to 24 bits."""
        if not self.coarse:
            return pad_zeros(users.to(self.table.dtype), self.missing)
        users = users.bfloat16()
        rest = (users.float() * self.table[target, : self.hidden].float()).sum(1)  # (b,) the target's score
        columns = [users]
        for _ in range(SHIFT_PARTS):
            rounded = rest.bfloat16()
            columns.append(-rounded[:, None])
            rest = rest - rounded.float()
        return pad_zeros(torch.cat(columns, 1), self.missing)

    def scores(self, users: Tensor) -> Tensor:
        """Scores (b, N) in float32 of the same inputs, not shifted: for lists of best items."""
        table = self.table[: self.n_items, : self.hidden]
        if not self.coarse:
            return users.to(table.dtype) @ table.T
        return users.bfloat16().float() @ table.float().T


def pad_zeros(x: Tensor, columns: int, rows: int = 0) -> Tensor:
    """Add columns and rows of zeros to x (n, m); x itself, not a copy of it, where there are none to add."""
    return F.pad(x, (0, columns, 0, rows)) if columns or rows else x
