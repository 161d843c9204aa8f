"""Build a product-search test set from reviews: an LLM rewrites each five-star review as a request."""
