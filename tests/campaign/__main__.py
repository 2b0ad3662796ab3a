"""`python -m tests.campaign [--trials N] [--seconds T] [--seed S] [part ...]`: what must never happen, tried.

Prints a table of claims with their trials and failures, and of every failure the input that it needs; the same
seed draws the same inputs. Exit code 1 where a claim does not hold, or was not tried.
"""

from __future__ import annotations

import argparse
import importlib
import sys
import tempfile
import time
from pathlib import Path

from rich.console import Console

from tests.campaign.trials import Campaign

PARTS = ("kills", "damage", "goldens", "reports", "ports", "inputs")


def campaign(parts: list[str], trials: int, seconds: float, seed: int) -> Campaign:
    """Every claim of these parts; each part has an equal share of the time, not counting what it begins with."""
    made = Campaign(trials, seed, until=0)
    for part in parts:
        with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
            claims = importlib.import_module(f"tests.campaign.{part}").claims(Path(folder).resolve())
            made.until = time.monotonic() + seconds / len(parts)
            made.run(claims)
    return made


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", metavar="part", help=f"of {', '.join(PARTS)}; all if none is named")
    parser.add_argument(
        "--trials", type=int, default=1000, help="of each claim; a costly one gets a share of them"
    )
    parser.add_argument("--seconds", type=float, default=3600, help="after which nothing is tried any more")
    parser.add_argument("--seed", type=int, default=1)
    asked = parser.parse_args()
    if unknown := set(asked.parts) - set(PARTS):
        parser.error(f"no part of the campaign: {', '.join(sorted(unknown))}")
    made = campaign(asked.parts or list(PARTS), asked.trials, asked.seconds, asked.seed)
    made.show(Console(width=120))
    sys.exit(1 if made.failures or not all(claim.trials for claim in made.claims) else 0)


if __name__ == "__main__":
    main()
