"""Runs the runs of a comparison that an output folder lacks, in one process or several."""

from common import environment, folders, processes


def run_missing(keys, runs, run, args, *, score, start=None, **constant):
    """Run what was not run before, and add each row to `runs` as it ends.

    Args:
        keys: A tuple for each run, with a value for each name of `folders.KEY`.
        runs: A `folders.Runs`.
        run: `run(key)` returns the results of a run, given its key as a dict.
        args: The options, of which `processes` says how many runs go on at once. Each process
            calls `start(args)` first.
        score: `score(results)` returns the text that is printed when a run ends.
        start: A function of a module, or `None`.
        constant: Further columns, equal for all rows.
    """
    keys = [dict(zip(folders.KEY, key, strict=True)) for key in keys]
    missing = [key for key in keys if not runs.find(**key)]
    print(f"{len(keys)} runs, {len(keys) - len(missing)} done before, {len(missing)} to do")
    for done, (key, results) in enumerate(_results(run, missing, args, start), start=1):
        runs.add({**key, **results, **environment.current(), **constant})
        print(
            f"[{done}/{len(missing)}] {key['model']}, init {key['init']}, rate "
            f"{key['learning_rate']:g}, seed {key['seed']}: {score(results)}, "
            f"{results['seconds']:.0f} s",
            flush=True,
        )


def _results(run, missing, args, start):
    """Yield each key with its results."""
    if args.processes > 1:
        yield from processes.run_all(run, missing, args.processes, start, (args,) if start else ())
        return
    if missing and start:
        start(args)
    for key in missing:
        yield key, run(key)


def curve(values):
    """Return values by epoch as the text of a column of runs.csv."""
    return " ".join(f"{value:.4f}" for value in values)
