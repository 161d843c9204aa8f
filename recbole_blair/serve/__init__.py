"""A trained run as an HTTP server: recommendations, neighbours, search and scores, and a page to try them."""
