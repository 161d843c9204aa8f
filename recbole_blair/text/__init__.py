"""Texts of items: recipes, the encoders that turn them into vectors, and the feature files that hold those."""
