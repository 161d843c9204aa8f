"""(review, metadata) pairs for pretraining a text encoder, and their overlap with validation and test."""
