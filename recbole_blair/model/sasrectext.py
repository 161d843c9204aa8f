"""SASRec (Text): SASRec whose item vectors are an MLP of frozen text features."""

import torch
import torch.nn.functional as F

from recbole_blair.model.adaptors import MLPAdaptor
from recbole_blair.model.dot_product import DotProductRecommender, Softmax
from recbole_blair.model.layers import HistoryEncoder


class SASRecText(DotProductRecommender):
    """SASRec over frozen item text: no item ids, no temperature, no normalisation.

    Trains on rows (`train_style: prefix`, as released) or on whole sequences, every position supervised in one pass.

    Differences to the released code, all intended: an item that occurs many times in a batch is projected once, so
    its occurrences share one dropout mask; the padding item is no candidate of the softmax.

    Source: the baseline of arXiv:2403.03952, section 4.2, after arXiv:1808.09781.
    """

    uses_text = True

    def __init__(self, config, dataset):
        super().__init__(config, dataset)
        self.compute_dtype = config["compute_dtype"]
        self.encoder = HistoryEncoder.from_config(config)
        self.make_items(config, dataset)
        self.softmax = Softmax(
            config["softmax"], config["n_negatives"], config["negatives"], dataset.item_counts("train")
        )

    def make_items(self, config, dataset):
        """Make what `project_items` reads."""
        features = dataset.text_features.to(self.compute_dtype)
        self.register_buffer("text_features", features, persistent=False)  # (N - 1, D)
        sizes = [features.shape[1], *config["adaptor_hidden_sizes"], config["hidden_size"]]
        self.adaptor = MLPAdaptor(sizes, config["adaptor_dropout_prob"], config["initializer_range"])

    def project_items(self, items=None):
        """Project items `items` (M,), ids from 1, or all of them: (M, H) or (N - 1, H)."""
        return self.adaptor(self.text_features if items is None else self.text_features[items - 1], self.compute_dtype)

    def calculate_loss(self, interaction):
        """Return the cross-entropy of the next item, a scalar."""
        if self.softmax.kind == "full":
            vectors = self.project_items()
            users, target = self.supervised_states(interaction, vectors)
            return self.softmax.full(users.to(self.compute_dtype), vectors.to(self.compute_dtype), target)
        items, negatives = self.softmax.draw(self.targets(interaction))
        item_seq = interaction[self.ITEM_SEQ]
        items = torch.unique(torch.cat([items, item_seq[item_seq > 0]]))
        vectors = self.project_items(items)
        users, target = self.supervised_states(interaction, vectors, items)
        return self.softmax.sampled(users, items, vectors, target, negatives)

    def item_vectors(self, projected=None):
        """Return the vectors of all items, (N, H); the padding row is zero."""
        return F.pad((self.project_items() if projected is None else projected).float(), (0, 0, 1, 0))

    def user_vectors(self, interaction, projected=None):
        """Return the vectors of the histories, (B, H); `projected` saves projecting their items."""
        item_seq, items = interaction[self.ITEM_SEQ], None
        if projected is None:
            items = torch.unique(item_seq[item_seq > 0])
            projected = self.project_items(items)
        return self.encode_history(item_seq, interaction[self.ITEM_SEQ_LEN], projected, items).float()
