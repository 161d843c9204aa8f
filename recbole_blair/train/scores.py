"""Products of users with one table of all items, made for ranking each user's target."""

import numpy as np
import torch
import torch.nn.functional as F

from recbole_blair.ops.device import ALIGNED, CACHE_BYTES
from recbole_blair.ops.linear import product
from recbole_blair.ops.softmax import SUM_PART
from recbole_blair.train.ranks import count_above_and_equal, drop_scores, middle_ranks, rank_in_parts, rank_targets

N_PARTS = 3  # bfloat16 numbers that hold a float32 one: three times eight bits
OWN_AT_ONCE = 128  # users whose targets' scores are taken from one small product


class DotScores:
    """Scores of users and items as products with one table of item vectors.

    Coarse scores take bfloat16 inputs and float32 sums. They are written as bfloat16, less the score of the user's own
    target: rounding keeps the sign of a difference, which is all that a rank needs, while bfloat16 scores as they are
    would tie by the hundred. The subtraction is part of the product: users get the target's score, in three parts, as
    further columns, items get ones. Widths, and on a GPU items, are padded with zeros to whole 16 bytes.

    Args:
        table (N, H): item vectors, row 0 the padding item's.
        coarse (bool)
        max_elements (int): scores held at a time.
    """

    def __init__(self, table, coarse=False, max_elements=1 << 25):
        self.coarse, self.max_elements, self.buffer = coarse, max_elements, None
        self.n_items, self.hidden = table.shape
        self.on_cpu = table.device.type == "cpu"
        if coarse:
            table = F.pad(table.bfloat16(), (0, N_PARTS), value=1.0)
        self.missing = 0 if self.on_cpu and not coarse else -table.shape[1] % ALIGNED
        self.table = zero_padded(table, self.missing, 0 if self.on_cpu else -len(table) % ALIGNED)

    def ranks(self, users, target, dropped=None):
        """Rank each user's target among all items.

        Args:
            users (B, H); target (B,) int64: item ids.
            dropped: (row, column) of scores to leave out, two int64 tensors; no target's among them.

        Returns:
            (B,) float64, as of `rank_targets`.

        Raises:
            FloatingPointError: a score is not a number.
        """
        if self.on_cpu:
            return self.ranks_in_blocks(users, target, dropped)
        rows = max(1, self.max_elements // self.n_items)
        return rank_in_parts(lambda part: self.against(users[part], target[part]), target, dropped, rows)

    def ranks_in_blocks(self, users, target, dropped):
        """Rank as `ranks`, a block of items at a time: scores are compared while they are in the cache.

        That needs the targets' own scores first. They come from small products of the same kind; a row whose target
        comes out otherwise in its block, by another order of summation, is ranked from its whole row.
        """
        laid = self.laid_out(users, target)
        own = self.own_scores(laid, target)
        counts, settled = np.zeros((2, len(users))), torch.ones(len(users), dtype=torch.bool)
        start = 1  # the block's first item
        for block in self.table[1:].split(self.block_width(len(users))):
            scores = product(laid, block.T)
            here = ((target >= start) & (target < start + len(block))).nonzero().squeeze(1)
            settled[here] = scores[here, target[here] - start] == own[here, 0]
            drop_scores(scores, dropped, first_column=start)
            counts += count_above_and_equal(scores, own)
            start += len(block)
        counts[1, ~settled.numpy()] = 1.0  # whatever they were: these ranks are made anew
        ranks = middle_ranks(*counts)
        for row in (~settled).nonzero().squeeze(1).tolist():
            scores = self.against(users[row : row + 1], target[row : row + 1])
            drop_scores(scores, dropped, row)
            ranks[row] = rank_targets(scores, target[row : row + 1])[0]
        return ranks

    def block_width(self, n_users):
        """Items whose scores with so many users fit the cache and `max_elements`; a whole number of `SUM_PART`."""
        width = min(CACHE_BYTES // self.table.element_size(), self.max_elements) // max(1, n_users)
        return max(1, width - width % SUM_PART if width > SUM_PART else width)

    def own_scores(self, laid, target):
        """The score of each user's own target, (B, 1), of laid-out users."""
        parts = zip(laid.split(OWN_AT_ONCE), target.split(OWN_AT_ONCE), strict=True)
        return torch.cat([product(users, self.table[items].T).diagonal() for users, items in parts])[:, None]

    def against(self, users, target):
        """Scores to compare with the target's own; valid until the next call.

        Args:
            users (b, H); target (b,) int64: item ids.

        Returns:
            (b, N): float32, or bfloat16 and shifted when coarse.
        """
        users = self.laid_out(users, target)
        if self.buffer is None or len(self.buffer) < len(users):
            self.buffer = users.new_empty(len(users), len(self.table))
        return torch.mm(users, self.table.T, out=self.buffer[: len(users)])[:, : self.n_items]

    def laid_out(self, users, target):
        """Users (b, as wide as the table) for products with it: when coarse, less the target's, to 24 bits."""
        if not self.coarse:
            return zero_padded(users.to(self.table.dtype), self.missing)
        users = users.bfloat16()
        rest = (users.float() * self.table[target, : self.hidden].float()).sum(1)
        columns = [users]
        for _ in range(N_PARTS):
            part = rest.bfloat16()
            columns.append(-part[:, None])
            rest = rest - part.float()
        return zero_padded(torch.cat(columns, 1), self.missing)

    def plain(self, users):
        """Scores (b, N) in float32 of the same inputs, not shifted: for lists of best items."""
        table = self.table[: self.n_items, : self.hidden]
        if not self.coarse:
            return users.to(table.dtype) @ table.T
        return users.bfloat16().float() @ table.float().T


def zero_padded(x, columns, rows=0):
    """Add columns and rows of zeros to x (n, m); x itself, not a copy of it, where there are none to add."""
    return F.pad(x, (0, columns, 0, rows)) if columns or rows else x
