"""A model that cannot be traced, run as it stands: operation by operation, with the same table.

Models that look at values while they run (`np.array(positions)`, `if mask.all():`) have no program that could be
opened. Their taps are handed over as they come. JAX runs its own jitted code and loops in Python meanwhile
(`jax.disable_jit`), so that taps in there are seen too. It is slow, and nothing is lifted to float64.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import jax

from harness.errors import PortError, first_line
from harness.run.contained import own_line
from harness.run.tapping import Session, TapFunction
from harness.run.tracing.mark import handed_over
from harness.run.tracing.numbering import PLAIN, Calls, Never, Wanted, by_call, refuse_ambiguous
from harness.run.tracing.program import AS_IT_IS, Source
from harness.taps import kind_of

LOOP = PLAIN + 1
NOTE = "run eagerly, operation by operation: what the model hard-codes in float32 is not lifted to float64"
# What JAX raises where Python asks for a value that exists only while it traces.
ASKS_FOR_VALUES = (
    jax.errors.ConcretizationTypeError,
    jax.errors.NonConcreteBooleanIndexError,
    jax.errors.TracerArrayConversionError,
    jax.errors.TracerIntegerConversionError,
)


def untraceable(error: BaseException) -> PortError:
    """What to say of a model that looks at values while it is traced."""
    return PortError(
        "the model cannot be traced: it looks at a value while it runs",
        where=own_line(error),
        expected="computations alone: values do not exist yet while JAX traces",
        found=f"{type(error).__name__}: {first_line(error)}",
        hint="write `eager = True` in the port: it is then run operation by operation, with the same table. That is "
        "slower, and float64 is not lifted: check it with --precision float32,bfloat16 where it hard-codes float32",
    )


class Eager:
    """Runs a model with its taps handed over as they come; in the place of `Program`.

    Args:
        source: the model and its taps.
        wanted: which call is which tap.
        layers: how many there are. Where only the tap's name has `{i}`, its calls are dealt out to them in order.
        never: what to say of a place that is never called.
    """

    notes = (NOTE,)

    def __init__(self, source: Source, wanted: Sequence[Wanted], layers: int, never: Never) -> None:
        self._source, self._wanted, self._layers, self._never = source, wanted, layers, never
        self._known: dict[Any, Calls] = {}

    def __call__(self, *arguments: Any) -> Any:
        """What the model returns; the last argument is the tap.

        Raises:
            PortError: a row that means no call, or could mean several; calls that differ from pass to pass.
        """
        *given, tap = arguments
        if not isinstance(tap, Session):
            return self._run(given, lambda site, value: value)[0]
        shapes = tuple(getattr(leaf, "shape", None) for leaf in jax.tree.leaves(given))
        if shapes not in self._known:
            self._known[shapes] = self._counted(given)
        handing = _Handing(self._source, self._known[shapes], self._wanted, self._layers, tap)
        returned, watched = self._run(given, handing)
        handing.refuse_others()
        for name, value in watched.items():
            tap(name, self._source.adaptations.get(kind_of(name), AS_IT_IS).to_tap(value))
        return returned

    def _run(self, given: Sequence[Any], on_tap: Callable[[str, jax.Array], jax.Array]) -> tuple[Any, Any]:
        with handed_over(on_tap), jax.disable_jit():
            return self._source.model(*given)

    def _counted(self, given: Sequence[Any]) -> Calls:
        """How often each place is called, by a pass of its own: rows may count from the end."""
        totals = Calls()

        def count(site: str, value: jax.Array) -> jax.Array:
            totals.count(site)
            return value

        self._run(given, count)
        found = self._by_layer(totals)
        for one in self._wanted:
            refuse_ambiguous(one, found, self._never)
        return found

    def _by_layer(self, totals: Calls) -> Calls:
        looped = {one.site: one.tap for one in self._wanted if one.looped}
        found = Calls()
        for (site, _), count in totals.counts.items():
            if site not in looped:
                found.counts[site, PLAIN] = count
                continue
            if count % self._layers:
                raise PortError(
                    "the calls of a place cannot be dealt out to the layers",
                    where=f"{site} -> {looped[site]}",
                    expected=f"a multiple of {self._layers} calls",
                    found=f"{count} calls",
                    hint="write {i} on the left as well, or say what has to be running: '... in layers.{i}.attn'",
                )
            found.counts[site, LOOP] = count // self._layers
        return found


class _Handing:
    """The taps of one pass, as they come."""

    def __init__(
        self, source: Source, calls: Calls, wanted: Sequence[Wanted], layers: int, tap: TapFunction
    ) -> None:
        self._source, self._calls, self._layers, self._tap = source, calls, layers, tap
        self._names = by_call(wanted, calls)
        self._seen: dict[str, int] = {}

    def __call__(self, site: str, value: jax.Array) -> jax.Array:
        call = self._seen[site] = self._seen.get(site, -1) + 1
        name = self._name(site, call)
        if name is None:
            return value
        adaptation = self._source.adaptations.get(kind_of(name), AS_IT_IS)
        seen = adaptation.to_tap(value)
        goes_on = self._tap(name, seen)
        return value if goes_on is seen else adaptation.from_tap(goes_on)

    def _name(self, site: str, call: int) -> str | None:
        each = self._calls.counts.get((site, LOOP))
        if each is None:
            return self._names.get((site, PLAIN, call))
        layer, call = divmod(call, each)
        name = self._names.get((site, LOOP, call))
        return name and name.replace("{i}", str(layer))

    def refuse_others(self) -> None:
        """Calls were counted in another pass: they have to be as many in this one."""
        counted = {
            site: count * (self._layers if loop == LOOP else 1) for (site, loop), count in self._calls.counts.items()
        }
        made = {site: last + 1 for site, last in self._seen.items()}
        if made != counted:
            site = next(site for site in {**counted, **made} if counted.get(site) != made.get(site))
            raise PortError(
                "the model makes other calls in another pass on the same shapes",
                where=site,
                expected=f"{counted.get(site, 0)} calls",
                found=f"{made.get(site, 0)} calls",
                hint="a row can name a call only where every pass makes the same ones",
            )
