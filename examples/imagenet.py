raise SystemExit("imagenet.py has moved: run `python examples/imagenet` with the same options.")
