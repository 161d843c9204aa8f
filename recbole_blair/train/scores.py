"""Products of users with one table of all items, made for ranking each user's target."""

import torch
import torch.nn.functional as F

from recbole_blair.device import ALIGNED

N_PARTS = 3  # bfloat16 numbers that hold a float32 one: three times eight bits


class DotScores:
    """Scores in chunks, in a buffer that is used again: fresh pages would cost a third more.

    Coarse scores take bfloat16 inputs and float32 sums. They are written as bfloat16, less the score of the user's own
    target: rounding keeps the sign of a difference, which is all that a rank needs, while bfloat16 scores as they are
    would tie by the hundred. The subtraction is part of the product: users get the target's score, in three parts, as
    further columns, items get ones. On a GPU items and widths are padded with zeros to whole 16 bytes.

    Args:
        table (N, H): item vectors, row 0 the padding item's.
        coarse (bool)
    """

    def __init__(self, table, coarse=False):
        self.coarse, self.buffer = coarse, None
        self.n_items, self.hidden = table.shape
        if coarse:
            table = F.pad(table.bfloat16(), (0, N_PARTS), value=1.0)
        self.missing = 0 if table.device.type == "cpu" else -table.shape[1] % ALIGNED
        self.table = table if table.device.type == "cpu" else F.pad(table, (0, self.missing, 0, -len(table) % ALIGNED))

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
        users = F.pad(users, (0, self.missing)) if self.missing else users
        return torch.mm(users, self.table.T, out=self.buffer[: len(users)])[:, : self.n_items]

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
        table = self.table[: self.n_items, : self.hidden]
        if not self.coarse:
            return users.to(table.dtype) @ table.T
        return users.bfloat16().float() @ table.float().T
