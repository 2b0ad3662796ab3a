"""Which bug is this? Evidence from the arrays first, then the mutant that reproduces the port."""
