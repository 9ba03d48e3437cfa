import types

import language_once


def test_the_best_rate_of_each_init_that_ran_on_all_seeds():
    def row(init, rate, seed, loss):
        key = {"model": "gpt2", "init": init, "learning_rate": rate, "seed": seed}
        return {**key, "validation_loss": loss}

    rows = [
        row("default", 0.1, 0, 1.0),  # the seed that chose the rate
        *(row("default", rate, seed, 3 - rate) for rate in (0.1, 0.2) for seed in (1, 2)),
        *(row("all", 0.4, seed, 2.0) for seed in (1, 2)),
        row("all", 0.8, 1, 1.0),
        row("control", 0.4, 1, 1.0),
    ]
    found = language_once.rates_of(types.SimpleNamespace(rows=rows), range(1, 3))
    assert found == {("gpt2", "default"): 0.2, ("gpt2", "all"): 0.4}
