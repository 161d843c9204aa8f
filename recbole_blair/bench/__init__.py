"""Text encoders compared on tasks and data sets: cells that are kept, intervals, paired tests, a leaderboard."""
