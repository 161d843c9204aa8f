"""Raw files: names of data sets, downloading, the generated sample, formats of own logs."""
