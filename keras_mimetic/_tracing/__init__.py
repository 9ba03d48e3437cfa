"""Any Keras model as one flat graph of calls; knows no structure."""
