"""Several processes: starting them, what they tell each other, Ray, and the environment they inherit."""
