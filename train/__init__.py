"""Training: the network, its data, its losses and its scores. Importing this package imports no torch."""
