"""Full-ranking evaluation: the item table once, scores in chunks, only each target's rank is kept."""

import itertools
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch

from recbole_blair.device import has_fast_bf16
from recbole_blair.distributed import rank as process_rank
from recbole_blair.distributed import sum_over_processes, world_size
from recbole_blair.memory import keep_freed_memory
from recbole_blair.schema import ITEM_ID
from recbole_blair.train.ahead import ahead
from recbole_blair.train.metrics import compute_metrics
from recbole_blair.train.progress import progress_bar
from recbole_blair.train.scores import DotScores

MANY_SCORES = 1 << 20  # below it one thread counts sooner than several start
MORE_ON_A_GPU = 8  # times max_score_elements, which is chosen for a CPU's cache and memory
BF16_INFINITY, BF16_MINUS_ZERO = 0x7F80, -0x8000  # bits as int16


def rank_targets(scores, target):
    """Rank each row's target among all items, the padding item left out.

    Args:
        scores (B, N) float: column 0 is the padding item.
        target (B,) int64: item ids from 1.

    Returns:
        (B,) float64: 1 is best. Equal scores: the middle of the ties.

    Raises:
        FloatingPointError: a score is not a number.
    """
    candidates = scores[:, 1:]
    own = candidates.gather(1, (target - 1)[:, None])
    if candidates.device.type != "cpu":
        ranks = device_ranks(candidates, own)
    else:
        above, ties = count_above_and_equal(candidates, own)
        ranks = np.where(ties, above + (ties + 1.0) / 2.0, np.nan)  # nothing equals a NaN, not even itself
    if np.isnan(ranks).any():
        raise FloatingPointError("the model scores a target as NaN; lower the learning rate or use precision=fp32")
    return ranks


def device_ranks(candidates, own):
    """Rank each row's own score (B, 1), which is one of candidates (B, M), on a GPU: (B,) float64.

    Each candidate adds 1 when above, 1/2 when equal: halves below 2^23, which float32 sums hold exactly. Sums of the
    masks themselves would first be copied to eight bytes a score. A score that does not equal itself gives NaN.
    """
    beaten = candidates - own
    torch.heaviside(beaten, beaten.new_tensor(0.5), out=beaten)
    wide = torch.float32 if candidates.shape[1] < 1 << 23 else torch.float64
    ranks = beaten.sum(1, dtype=wide).double().add_(0.5).cpu().numpy()
    return np.where(ranks < 1.0, np.nan, ranks)


def count_above_and_equal(candidates, own):
    """Count the scores (B, M) above and equal to each row's own (B, 1), on the CPU; two (B,) int64 arrays.

    Row by row: a row stays in the cache, which is some ten times faster than reducing a mask.
    """
    count = count_rows
    if candidates.dtype == torch.bfloat16:  # NumPy has none: the bits as int16
        candidates, own, count = candidates.view(torch.int16).numpy(), own.view(torch.int16).numpy(), count_bf16_rows
    else:
        candidates, own = candidates.float().numpy(), own.float().numpy()
    threads = min(torch.get_num_threads(), len(own)) if candidates.size > MANY_SCORES else 1
    parts = np.array_split(np.arange(len(own)), threads)
    with ThreadPoolExecutor(len(parts)) as pool:  # comparing releases the interpreter
        counts = list(pool.map(lambda part: count(candidates[part[0] : part[-1] + 1], own[part]), parts))
    return np.concatenate(counts).T


def count_rows(candidates, own):
    """Count as above, in one thread; (B, 2) int64."""
    counts = [(np.count_nonzero(row > mine), np.count_nonzero(row == mine)) for row, mine in zip(candidates, own)]
    return np.array(counts, np.int64).reshape(-1, 2)


def count_bf16_rows(candidates, own):
    """Count as above, of bfloat16 numbers given as their bits in int16 (sign and magnitude)."""
    n, counts = np.count_nonzero, []
    for row, mine in zip(candidates, own[:, 0]):
        if mine & 0x7FFF > BF16_INFINITY:  # a NaN
            counts.append((0, 0))
        elif mine & 0x7FFF == 0:  # +0 or -0
            counts.append((n(row > 0), n(row == 0) + n(row == BF16_MINUS_ZERO)))
        elif mine > 0:
            counts.append((n(row > mine), n(row == mine)))
        else:  # of two negative numbers the larger one has the smaller magnitude
            counts.append((n(row >= 0) + n(row < mine), n(row == mine)))
    return np.array(counts, np.int64).reshape(-1, 2)


class Evaluator:
    """Ranks the targets of one split.

    A DotProductRecommender has its item table computed once; any other model, and one whose `scores_by_dot_product`
    is False, is asked for `full_sort_predict`. In a bf16 run, on a chip made for it, the products of users and items
    are coarse (see `DotScores`).

    Args:
        loader (RowLoader): not shuffled.
        config (Config)
        device (torch.device)
        autocast (callable): gives the precision context.
    """

    def __init__(self, loader, config, device, autocast):
        self.loader, self.config, self.device, self.autocast = loader, config, device, autocast
        self.dataset = loader.dataset

    @torch.inference_mode()
    @keep_freed_memory()
    def ranks(self, model, label="evaluate"):
        """Return the rank of every row's target, (R,) float64 in row order."""
        model.eval()
        rank = np.zeros(len(self.loader.rows))
        with self.autocast():
            by_dot = hasattr(model, "project_items") and getattr(model, "scores_by_dot_product", True)
            projected = model.project_items() if by_dot else None
            scorer = self.scorer(model, projected) if by_dot else None
        at_once = self.config["max_score_elements"] * (1 if self.device.type == "cpu" else MORE_ON_A_GPU)
        chunk = max(1, at_once // self.dataset.n_items)
        bar = progress_bar(len(rank), label, "rows", self.config["show_progress"])
        for batch, rows in ahead(((batch, batch["row"].cpu().numpy()) for batch in self.own_batches()), self.device):
            with self.autocast():
                users = model.user_vectors(batch, projected) if by_dot else None
            for start in range(0, len(rows), chunk):
                part = slice(start, start + chunk)
                target = batch[ITEM_ID][part]
                scores = scorer.against(users[part], target) if by_dot else self.full_scores(model, batch, part)
                if self.config["mask_history"]:
                    self.drop_history(scores, rows[part], target)
                rank[rows[part]] = rank_targets(scores, target)
            bar.update(len(rows))
        bar.close()
        return sum_over_processes(rank)

    def own_batches(self):
        """The batches that fall to this process, every world-size-th; all of them when it is alone."""
        if world_size() == 1:
            return iter(self.loader)
        return map(self.loader.build, itertools.islice(self.loader.batches(), process_rank(), None, world_size()))

    def scorer(self, model, projected):
        """Lay out the item table of a model that scores by products; inside the precision context."""
        coarse = torch.is_autocast_enabled(self.device.type) and has_fast_bf16(self.device)
        return DotScores(model.item_vectors(projected), coarse)

    def full_scores(self, model, batch, part):
        """Scores (b, N) of a slice of the batch from the model's own full sort, in float32: bfloat16 would tie them."""
        piece = type(batch)({k: batch[k][part] for k in batch})
        return model.full_sort_predict(piece).view(len(piece), -1).float()

    def drop_history(self, scores, rows, target):
        """Set the scores of every item before the target to -inf, but never the target's own."""
        items, length = self.dataset.history_of(self.loader.split, rows, full=self.dataset.chained)
        row = torch.from_numpy(np.repeat(np.arange(len(rows)), length)).to(scores.device)
        column = torch.from_numpy(items.astype(np.int64)).to(scores.device)
        own = scores.gather(1, target[:, None])
        scores[row, column] = float("-inf")
        scores.scatter_(1, target[:, None], own)

    def evaluate(self, model, label="evaluate"):
        """Return the configured metrics and the ranks they come from."""
        rank = self.ranks(model, label)
        config = self.config
        return compute_metrics(rank, config["metrics"], config["topk"], also=[config["valid_metric"]]), rank
