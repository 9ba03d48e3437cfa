"""What the scripts of examples/ and benchmarks/ share."""
