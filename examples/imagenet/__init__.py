"""Training on ImageNet; `python examples/imagenet` starts it."""
