"""Modules of the benchmarks that are no scripts."""
