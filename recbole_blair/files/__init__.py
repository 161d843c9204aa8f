"""Reading what users give, writing what is whole or not there, and where the package's own files are."""
