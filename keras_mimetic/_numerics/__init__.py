"""The mathematics of the structures: NumPy and SciPy alone, no Keras."""
