"""Correct ports on checkpoints of realistic shape: false alarms, shares of the limits, the tail of the noise.

    python -m tests.benchmarks.calibration --comparisons 500000 --seconds 3600

It needs the `record` extra. A round is a checkpoint with random weights, recorded on prompts of 1 to 600 tokens by
the real recorder, on which several ports are checked in float32 and bfloat16, in all modes. With `--keep FILE`
what was counted is written after every round, and a later call goes on from there.
"""

from __future__ import annotations

import math
import os
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import click

from tests.benchmarks.realistic import HEAVY, LONG, SHAPES, Shape, corpus, write
from tests.benchmarks.tally import DECADES, STATISTICS, Tally

PRECISIONS = ("float32", "bfloat16")
SECOND = "tests.second_port.variants:Compiled"
ADAPTED = ("linen_model:Scanned", "nnx_model:Scanned", "function_model:Stacked")
EVERY = 3  # the costly checkpoint comes once in so many turns


def schedule(seed: int, done: int) -> Iterator[tuple[Shape, int, int]]:
    """The rounds that are left: shape, seed, length of the long prompt."""
    number = 0
    while True:
        turn, at = divmod(number, len(SHAPES))
        shape = SHAPES[at]
        if number >= done and (shape != HEAVY or turn % EVERY == 0):
            yield shape, seed + number, LONG[number % len(LONG)]
        number += 1


def ports(folder: Path, number: int) -> list[str]:
    """The built-in port and the second; of the others one in turn, since they are costly to compile."""
    from harness.run.port import BUILT_IN
    from tests.benchmarks.ports import readme_port

    others = [readme_port("by hand", folder), *(f"tests.run.adapters.{port}" for port in ADAPTED)]
    return [BUILT_IN, SECOND, others[number % len(others)]]


def play(folder: Path, shape: Shape, seed: int, long: int, tally: Tally) -> None:
    """One round."""
    from harness.record.recorder import record
    from harness.run.check import check
    from harness.run.question import Question
    from harness.run.source import GoldenSource
    from harness.store import open_golden

    size = shape.size
    name = f"{size.layers} layers, hidden {size.hidden}, {size.heads} heads of {size.head_dim}, seed {seed}"
    with tempfile.TemporaryDirectory(dir=folder) as place:
        checkpoint, path = Path(place) / "model", Path(place) / "golden.h5"
        write(checkpoint, shape, seed)
        record(checkpoint, "model", corpus(seed, long, few=shape == HEAVY), str(path))
        for spec in ports(folder, seed):
            report = check(path, checkpoint, spec, Question(precisions=PRECISIONS))
            port = spec.rpartition(".")[2]
            tally.add(port, name, report.results)
            with open_golden(path) as golden:
                for precision in PRECISIONS:
                    results = [r for r in report.results if r.precision == precision and r.verdict == "match"]
                    tally.fit(port, GoldenSource(golden, precision), results)


def show(tally: Tally) -> None:
    click.echo(
        f"{tally.total:,} comparisons in {tally.rounds} rounds, {tally.seconds:.0f} s: "
        f"{len(tally.alarms)} false alarms"
    )
    for alarm in tally.alarms[:20]:
        click.echo(f"  {alarm}")
    click.echo("\nlargest share of the limit")
    for key, count in sorted(tally.comparisons.items()):
        click.echo(f"  {key}, {count:,}")
        for statistic in STATISTICS:
            share, place = tally.largest.get(f"{key} {statistic}", (0.0, "-"))
            click.echo(f"    {statistic:8s} {share:.2f}  {place}")
    click.echo(
        "\nlargest median of a port's rms, in what the model expects of PyTorch's (what the allowance is for)"
    )
    for key in PRECISIONS:
        ratios = sorted(
            ((ratio, name) for name, ratio in tally.ratios.items() if name.startswith(key)), reverse=True
        )
        click.echo(f"  {key}: " + "; ".join(f"{ratio:.2f} {name.partition(' ')[2]}" for ratio, name in ratios[:6]))
    click.echo("\ntail: the share of places whose chance is below 1e-k, over 1e-k (1 is the model, | in the plot)")
    for title, table in (("with the allowance", tally.allowed), ("by the port's own median", tally.normalised)):
        for key, counts in sorted(table.items()):
            click.echo(f"  {key}, {title}, {counts[0]:,} places")
            for k in range(1, DECADES + 1):
                share = counts[k] / counts[0]
                if counts[k] or counts[0] > 10**k:
                    click.echo(f"    1e-{k:<3d} {share * 10**k:8.2g}  {counts[k]:8,}  {_plot(share, k)}")


def _plot(found: float, decade: int) -> str:
    """A place on a line of 48 columns from 1e-12 to 1, | where the model says."""
    line = [" "] * 49
    line[48 - 4 * decade] = "|"
    if found > 0:
        line[max(0, round(48 + 4 * math.log10(found)))] = "*"
    return "".join(line)


@click.command(help=__doc__)
@click.option("--comparisons", default=500_000, show_default=True, help="Stop once there are so many.")
@click.option("--seconds", default=3600.0, show_default=True, help="Begin no round after so long.")
@click.option("--seed", default=0, show_default=True)
@click.option(
    "--begin", default=0, show_default=True, help="The first round: so several processes can share them."
)
@click.option(
    "--keep", type=click.Path(path_type=Path, dir_okay=False), help="Count on from this file, and write it."
)
def main(comparisons: int, seconds: float, seed: int, begin: int, keep: Path | None) -> None:
    tally = Tally.read(keep) if keep is not None and keep.exists() else Tally(rounds=begin)
    started, before = time.monotonic(), tally.seconds
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        sys.path.insert(0, name)
        # One thread: the layers are small, and threads that wait for each other take ten times as long.
        os.environ.setdefault("OMP_NUM_THREADS", "1")
        os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(folder / "compiled"))
        os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")
        for shape, round_seed, long in schedule(seed, tally.rounds):
            if tally.total >= comparisons or time.monotonic() - started >= seconds:
                break
            play(folder, shape, round_seed, long, tally)
            tally.rounds = round_seed - seed + 1
            tally.seconds = before + time.monotonic() - started
            if keep is not None:
                tally.write(keep)
            click.echo(
                f"{tally.total:,} comparisons, {len(tally.alarms)} false alarms, {tally.seconds:.0f} s", err=True
            )
    show(tally)


if __name__ == "__main__":
    main()
