"""Raw metadata to lines of the `.item` file."""
