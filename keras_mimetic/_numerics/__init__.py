"""The mathematics of the structures, in NumPy and SciPy, without Keras."""
