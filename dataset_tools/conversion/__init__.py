"""Raw reviews to atomic rows: cleaning, users, the time split, the 5-core, ties between equal times."""
