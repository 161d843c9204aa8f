"""Commands called from Python as steps that are kept: what `reproduce` and `bench` are made of."""
