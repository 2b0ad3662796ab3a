"""Right ways to compute mixtures of experts, on random checkpoints of all their families: false alarms, ties.

    python -m tests.benchmarks.false_alarms_of_experts --comparisons 100000 --seconds 1800

It needs the `record` extra. A round is a tiny checkpoint of one family with random weights, recorded anew, on
which the built-in decoder and variants of it (`tests/families/expert_variants.py`: dispatch, order, place of the
weights) are checked in bfloat16, in all modes. A token that goes to other experts than the golden's is no alarm
where the noise of its scores explains it.
"""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import click

from tests.families import tiny

FAMILIES = tuple(one for one in tiny.ALL if one[0].endswith("moe") or one[0] in ("mixtral", "gpt_oss"))
LATENT = tuple(one for one in tiny.ALL if one[0].startswith("deepseek"))
NORMED = {("mixtral", "plain"), ("qwen3_moe", "plain")}  # whose weights are a softmax of the chosen


def corpus() -> Any:
    from harness.corpus import Corpus
    from harness.entries import Batch, Decode, Prompt

    return Corpus(
        (
            Prompt("short", "1 2 3 45", "few tokens"),
            Prompt("some", "one, two; three.", "16 tokens"),
            Prompt("more", "Where do all of these tokens go?", "32 tokens"),
        ),
        decodes=(Decode("chunk", "a cached", "two chunks and steps", steps=2, chunks=(4,)),),
        batches=(Batch("left", ("short", "some"), "left", "pads"),),
    )


def variants(one: tuple[str, str]) -> Iterator[tuple[str, dict[str, Any]]]:
    """By name, what stands in the place of which operations."""
    from tests.families.expert_variants import AROUND, OUT

    yield "the decoder", {}
    for name, out in OUT.items():
        if name != "weighed before the last product" or one[0] != "gpt_oss":  # whose biases weights are of as well
            yield name, {"experts_out": lambda _, out=out: out}
    for name, around in AROUND.items():
        if name != "softmax of the chosen" or one in NORMED:
            yield name, around


def checks(golden: Path, checkpoint: Path, one: tuple[str, str]) -> Iterator[tuple[str, Any]]:
    """Every variant's report."""
    from harness.architecture import architecture_of
    from harness.mutants.eager import Eager
    from harness.run.arithmetic import one_by_one_of
    from harness.run.check import check
    from harness.run.decoder import Decoder
    from harness.run.question import Question

    for name, changes in variants(one):

        def load(directory: Path, config: Any, dtype: Any, changes: Any = changes) -> Any:
            ops = one_by_one_of(architecture_of(config))
            changed = {operation: make(getattr(ops, operation)) for operation, make in changes.items()}
            return Eager(Decoder.load(directory, config, dtype, operations=replace(ops, **changed)))

        yield name, check(golden, checkpoint, name, Question(precisions=("bfloat16",)), load=load)


@click.command(help=__doc__)
@click.option("--comparisons", default=100_000, show_default=True, help="Stop once there are so many.")
@click.option("--seconds", default=1800.0, show_default=True, help="Begin no round after so long.")
@click.option("--seed", default=0, show_default=True)
@click.option("--layers", type=int, help="Of each checkpoint, where these are not the 2 of the tests.")
def main(comparisons: int, seconds: float, seed: int, layers: int | None) -> None:
    from harness.record.recorder import record

    started, made, alarms, choices, ties, rounds = time.monotonic(), 0, list[str](), 0, 0, 0
    largest = 0.0
    with tempfile.TemporaryDirectory() as name:
        os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", f"{name}/compiled")
        while made < comparisons and time.monotonic() - started < seconds:
            family, config = (*FAMILIES, *LATENT)[rounds % (len(FAMILIES) + len(LATENT))]
            place = Path(name) / str(rounds)
            checkpoint = tiny.write(place, family, config, seed + rounds, layers)
            record(checkpoint, "model", corpus(), str(place / "golden.h5"))
            for variant, report in checks(place / "golden.h5", checkpoint, (family, config)):
                made += len(report.results)
                largest = max([largest, *(r.share for r in report.results if r.rms_multiple is not None)])
                for result in report.results:
                    if result.choice is not None:
                        choices, ties = choices + result.choice.tokens, ties + result.choice.ties
                    if result.verdict not in ("match", "tied"):
                        where = f"{result.tap} in {result.case}, {result.mode}: {result.verdict}"
                        alarms.append(f"{family} {config}, seed {seed + rounds}, {variant}: {where}")
            rounds += 1
            click.echo(f"{made:,} comparisons in {rounds} rounds, {len(alarms)} false alarms", err=True)
            click.echo("".join(f"  {alarm}\n" for alarm in alarms[-3:]), err=True, nl=False)
    click.echo(f"{made:,} comparisons in {rounds} rounds, bfloat16: {len(alarms)} false alarms")
    click.echo(f"{ties:,} of {choices:,} choices are ties; the largest share of a limit is {largest:.2f}")
    for alarm in alarms[:20]:
        click.echo(f"  {alarm}")


if __name__ == "__main__":
    main()
