"""The one door for speed."""
