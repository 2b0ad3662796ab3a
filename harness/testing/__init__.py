"""What the pytest plugin is made of. Nothing here imports more than pytest until a golden is used."""
