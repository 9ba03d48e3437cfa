"""Attention, MLPs and their surroundings, recognized in the graph of a model."""
