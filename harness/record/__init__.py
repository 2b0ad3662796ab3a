"""Recording goldens: the only package that imports torch and transformers. `goldens record` is its door."""
