"""Products of users with one table of all items, made for ranking each user's target."""

import torch

N_PARTS = 3  # bfloat16 numbers that hold a float32 one: three times eight bits


class DotScores:
    """Scores in chunks, in a buffer that is used again: fresh pages would cost a third more.

    Coarse scores take bfloat16 inputs and float32 sums. They are written as bfloat16, less the score of the user's own
    target: rounding keeps the sign of a difference, which is all that a rank needs, while bfloat16 scores as they are
    would tie by the hundred. The subtraction is part of the product: users get the target's score, in three parts, as
    further columns, items get ones.

    Args:
        table (N, H): item vectors, row 0 the padding item's.
        coarse (bool)
    """

    def __init__(self, table, coarse=False):
        self.coarse, self.hidden, self.buffer = coarse, table.shape[1], None
        self.table = torch.nn.functional.pad(table.bfloat16(), (0, N_PARTS), value=1.0) if coarse else table

    def against(self, users, target):
        """Scores to compare with the target's own; valid until the next call.

        Args:
            users (b, H); target (b,) int64: item ids.

        Returns:
            (b, N): float32, or bfloat16 and shifted when coarse.
        """
        users = self.shifted(users, target) if self.coarse else users.to(self.table.dtype)
        if self.buffer is None or len(self.buffer) < len(users):
            self.buffer = users.new_empty(len(users), len(self.table))
        return torch.mm(users, self.table.T, out=self.buffer[: len(users)])

    def shifted(self, users, target):
        """Return users (b, H + 3) whose products with the table are less the target's, to 24 bits."""
        users = users.bfloat16()
        rest = (users.float() * self.table[target, : self.hidden].float()).sum(1)
        columns = [users]
        for _ in range(N_PARTS):
            part = rest.bfloat16()
            columns.append(-part[:, None])
            rest = rest - part.float()
        return torch.cat(columns, 1)

    def plain(self, users):
        """Scores (b, N) in float32 of the same inputs, not shifted: for lists of best items."""
        if not self.coarse:
            return users.to(self.table.dtype) @ self.table.T
        return users.bfloat16().float() @ self.table[:, : self.hidden].float().T
