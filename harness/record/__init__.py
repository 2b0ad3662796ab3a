"""Recording goldens: the only package that imports torch and transformers. `generate_goldens.py` is its door."""
