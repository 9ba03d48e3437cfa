"""How much of each structure a weight has: pure NumPy, no Keras."""
