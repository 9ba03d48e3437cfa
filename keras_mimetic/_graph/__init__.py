"""Any Keras model as one flat graph of calls, independent of the structures."""
