"""Continue-pretraining of a text encoder on (review, item metadata) pairs: arXiv:2403.03952, section 3.1."""
