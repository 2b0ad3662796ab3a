"""What an audit costs for each mutant, against a check of the same golden for each mutant.

    python -m tests.benchmarks.bench_audit

Both judge the same mutants at float32 on every case of the embedded golden: the audit in one run, and one
`goldens check` (both modes, in one process, compiled anew for each mutant as it has to be) for each of them.
"""

from __future__ import annotations

import time

import jax
from rich.console import Console
from rich.table import Table

from harness import embedded
from harness.mutants.audit import AuditQuestion, audit
from harness.mutants.catalogue import CATALOGUE
from harness.mutants.planting import loader
from harness.run.check import check
from harness.run.question import Question

# One of each kind and family, so that the average stands for the catalogue.
MUTANTS = (
    *("embed_scaled", "norm_eps_outside", "q_bias_missing", "o_transposed", "theta_1e4", "rope_interleaved"),
    *("tables_in_bfloat16", "scale_missing", "causal_missing", "activation_gelu", "mlp_residual_halved"),
    *("matmul_tf32", "layers_swapped", "head_scaled"),
)


def seconds(run: object) -> float:
    jax.clear_caches()
    start = time.perf_counter()
    run()  # type: ignore[operator]
    return time.perf_counter() - start


def main() -> None:
    golden, checkpoint = embedded.golden(), embedded.directory() / "qwen2-tiny"
    chosen = [mutant for mutant in CATALOGUE if mutant.id in MUTANTS]

    def audited(*mutants: str) -> float:
        return seconds(lambda: audit(golden, checkpoint, AuditQuestion(("float32",), mutants)))

    def checked(mutant: object) -> float:
        question = Question(precisions=("float32",))
        return seconds(lambda: check(golden, checkpoint, "mutant", question, load=loader(mutant)))

    one, all_of_them = audited(MUTANTS[0]), audited(*MUTANTS)
    in_checks = sum(checked(mutant) for mutant in chosen)
    each = (all_of_them - one) / (len(chosen) - 1)
    table = Table("", "seconds", "ratio", box=None)
    table.add_row(f"audit of {len(chosen)} mutants", f"{all_of_them:.1f}", "1")
    table.add_row(f"a check of each of {len(chosen)}", f"{in_checks:.1f}", f"{in_checks / all_of_them:.1f}")
    table.add_row("audit, for each further mutant", f"{each:.2f}", "1")
    table.add_row("a check", f"{in_checks / len(chosen):.2f}", f"{in_checks / len(chosen) / each:.1f}")
    Console().print(table)


if __name__ == "__main__":
    main()
