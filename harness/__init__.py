"""Golden-artifact regression harness for JAX ports of PyTorch models."""

__version__ = "0.1.0"
