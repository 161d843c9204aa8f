"""Training and evaluation of recommenders: trainer, evaluation, metrics, checkpoints, the files of a run."""
