"""The optimizer of the examples."""

import keras


def warmup_cosine(rate, steps, warmup):
    """Return a schedule over `steps` updates: linear warm-up to `rate`, then cosine decay."""
    if not warmup:
        return keras.optimizers.schedules.CosineDecay(rate, steps)
    rising = {"warmup_target": rate, "warmup_steps": warmup}
    return keras.optimizers.schedules.CosineDecay(0.0, max(1, steps - warmup), **rising)


def adamw(rate, weight_decay, steps, *, warmup, **more):
    """Return AdamW with warm-up and cosine decay, and no decay on biases and norms."""
    schedule = warmup_cosine(rate, steps, warmup)
    optimizer = keras.optimizers.AdamW(schedule, weight_decay=weight_decay, **more)
    optimizer.exclude_from_weight_decay(var_names=["bias", "gamma", "beta"])
    return optimizer
