"""The port contract: what the harness needs from a JAX model, and how a port is found.

A port is a class (or a module) with

    load(checkpoint_dir, config, dtype, mesh) -> port
    port.forward(input_ids, positions, mask, cache, tap) -> (logits, cache)

`config` is the checkpoint's config.json in both of its dialects at once: `rope_theta` and `rope_parameters`,
`torch_dtype` and `dtype`, `max_window_layers` and `layer_types`. `harness.run.dialect.Parameters` has the weights
by name; a tied head is there as well. `mesh` is the `jax.sharding.Mesh` of `--mesh data=2,model=4`, or None: what
a port puts where is its own matter, and a value that is sharded is handed to `tap` as it is.

`input_ids` and `positions` are int32 [B, S], `mask` is bool [B, S] (False = padding), `logits` is [B, S, V] in
`dtype`. `cache` is None for a whole prompt. `tap(name, value) -> value` is called with every intermediate of
harness/taps.py that the model has, each of shape [B, S, ...]; the port goes on with what comes back.

A port with a KV cache has

    port.init_cache(batch, length, dtype) -> cache

and is then called several times: each call gets the next S tokens and the cache that the last one returned, and
its `mask` is [B, length], over the slots of the cache: True where this call or an earlier one put a real token.
So every call of one S has the same shapes. The taps `cache_k` and `cache_v` are the cache with this call's keys
and values in it, [B, slots, kv_head, head_dim], one slot per token in their order; what comes back is attended to,
and kept for the next call. `probs` then has a key for every slot.

The tap `routing` of a mixture of experts has the weight of every expert, 0 where a token does not go. At float32
and bfloat16 a token that goes to other experts than in the golden gets the golden's weights back (README.md beside
this file): the port goes on with these experts.

What a port cannot do, it declares; the report lists it as not covered, never as passed. Without an `init_cache`
that is every case with a cache. Further:

    without = ("probs",)                kinds of taps that the model does not expose
    also = ("expert_out",)              kinds that not every golden has, and that it does expose
    recorded_only = ("probs",)          kinds that it records, but does not go on with: replay cannot replace them
    earlier_only = ("cache_k",)         kinds of a cache of which replay writes the slots of earlier calls alone
    dtypes = {"logits": "float32"}      kinds of taps that are wider than `dtype` by design (float64 aside)
    cannot = ("batch", "offset")        kinds of cases (`harness.entries`) that it does not take
    positions_from_pads = ("left",)     rows padded on that side count their positions from the pads

A port may also offer `forward_sequences(sequences)`, to push many cases through one layer before it loads the
next: the calls of each case in order, of which only the first has a cache; it returns what `forward` would for
each call (see `harness.run.decoder`). And `without_weights()`: itself with zeros for weights, which is traced in
its place (`harness.run.matmul_audit`); or `programs(calls)`: the jaxprs that it has run for such calls of a case,
which are then not traced again. `notes` are lines that the report has to show. `lifts = True` says that it
computes in float64 whatever its model hard-codes, so that `--lift` leaves it as it is. `harness.run.adapters`
makes ports of models that nobody edits.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import jax
import jax.numpy as jnp

from harness.architecture import Architecture
from harness.errors import PortError, shortened
from harness.golden import CASE_KINDS
from harness.run.contained import blaming_the_port
from harness.run.tapping import TapFunction
from harness.taps import CACHE_KINDS, CACHED, OPTIONAL

BUILT_IN = "harness.run.decoder:Decoder"
SIDES = ("left",)  # padded on the right, positions that count from the row's beginning are the golden's own
NOTE = (
    "positions of left-padded rows count from the pads, as the port declares: the golden's queries and keys after "
    "RoPE, those in a cache too, are turned by the pads of each row before they are compared"
)


class Port(Protocol):
    """What the harness calls."""

    def forward(
        self, input_ids: jax.Array, positions: jax.Array, mask: jax.Array, cache: Any, tap: TapFunction
    ) -> tuple[jax.Array, Any]: ...


@dataclass(frozen=True, eq=False)
class Call:
    """The arguments of one `forward`."""

    input_ids: jax.Array
    positions: jax.Array
    mask: jax.Array
    cache: Any
    tap: TapFunction


@dataclass(frozen=True)
class Declarations:
    """What a port says that it cannot do, or does differently by design."""

    without: tuple[str, ...] = ()
    dtypes: Mapping[str, str] = field(default_factory=dict)
    recorded_only: tuple[str, ...] = ()
    cannot: tuple[str, ...] = ()
    positions_from_pads: tuple[str, ...] = ()
    earlier_only: tuple[str, ...] = ()

    @property
    def unreplaced(self) -> frozenset[str]:
        """Kinds in whose place replay does not put the golden, or does so in part."""
        return frozenset({*self.without, *self.recorded_only, *self.earlier_only})

    @property
    def own(self) -> frozenset[str]:
        """Kinds whose values in replay are the port's own, at least in part, and go on as such.

        A cache of which replay writes the slots of earlier calls alone is golden all over where what this call
        puts into it is.
        """
        never = {*self.without, *self.recorded_only}
        return frozenset({*never, *(kind for kind in self.earlier_only if CACHED[kind] in never)})


def declarations(port: Port, kinds: frozenset[str]) -> Declarations:
    """What the port declares.

    Raises:
        PortError: it declares a kind of tap that the architecture does not have.
    """
    with blaming_the_port("what the port declares"):
        names = ("without", "recorded_only", "cannot", "positions_from_pads", "earlier_only", "also")
        without, recorded_only, cannot, sides, earlier, also = (
            tuple(map(str, getattr(port, name, ()))) for name in names
        )
        dtypes = {str(kind): jnp.dtype(dtype).name for kind, dtype in dict(getattr(port, "dtypes", {})).items()}
    _refuse_unknown(
        (*without, *dtypes, *recorded_only),
        sorted(kinds),
        "the port declares a kind of tap that does not exist",
        "`without`, `recorded_only` and `dtypes` take kinds such as probs, without layer numbers",
    )
    _refuse_unknown(
        also,
        sorted(OPTIONAL),
        "the port declares more than there is to declare",
        "`also` takes kinds of taps that not every golden has; the others it has, or is `without`",
        "also: ",
    )
    _refuse_unknown(
        earlier,
        sorted(CACHE_KINDS),
        "the port declares a kind of cache that does not exist",
        "`earlier_only` takes the kinds of a cache, which a port is given again by the next call",
        "earlier_only: ",
    )
    _refuse_unknown(
        cannot,
        CASE_KINDS,
        "the port declares a kind of case that does not exist",
        "`cannot` takes the kinds of a corpus' entries",
    )
    _refuse_unknown(
        sides,
        SIDES,
        "the port declares a side on which positions do not depend on the pads",
        'positions_from_pads = ("left",), where positions count from the beginning of the padded row',
        "positions_from_pads: ",
    )
    without += tuple(sorted(OPTIONAL - {*also, *without}))
    return Declarations(without, dtypes, recorded_only, cannot, sides, earlier)


def refuse_where_positions_count(sides: Collection[str], arch: Architecture) -> None:
    """Refuse the declaration for a model in which not only differences of positions count.

    Raises:
        PortError: positions are learned, or queries grow with them.
    """
    reason = "positions are learned" if arch.learned_positions else ""
    if any(rope and rope.growth for rope in arch.ropes):
        reason = "queries grow with their position"
    if any(rope and rope.factors for rope in arch.ropes):
        reason = "frequencies go by the last position"
    if sides and reason:
        problem = f"in this model positions that count from the pads give other logits: {reason}"
        hint = "count the positions of a row from its first token that is no padding"
        raise PortError(problem, "positions_from_pads", "nothing", ", ".join(sides), hint=hint)


def _refuse_unknown(declared: Sequence[str], known: Sequence[str], problem: str, hint: str, of: str = "") -> None:
    for name in declared:
        if name not in known:
            raise PortError(problem, where=f"{of}{name}", expected=", ".join(known), hint=hint)


def notes_of(port: Port) -> tuple[str, ...]:
    """The lines that the port wants the report to show.

    Raises:
        PortError: they cannot be had.
    """
    with blaming_the_port("notes"):
        return tuple(shortened(note) for note in getattr(port, "notes", ()))


def run_sequences(port: Port, sequences: Sequence[Sequence[Call]]) -> Iterator[list[jax.Array]]:
    """The logits of every call of every case: layer by layer where the port can, or else case by case.

    Args:
        sequences: the calls of each case; the first has the cache, which goes from call to call.

    Raises:
        PortError: the port raises, or does not return (logits, cache) for every call.
    """
    if not hasattr(port, "forward_sequences"):
        yield from (_step_by_step(port, calls) for calls in sequences)
        return
    with blaming_the_port("forward_sequences"):
        returned = [list(results) for results in port.forward_sequences(sequences)]
    expected, found = ([len(row) for row in rows] for rows in (sequences, returned))
    if found != expected:
        problem = "forward_sequences() does not return what forward() would for every call"
        hint = "see the contract at the head of harness/run/port.py"
        raise PortError(problem, expected=f"{expected} results (logits, cache), by case", found=found, hint=hint)
    yield from ([_logits(result) for result in results] for results in returned)


def _step_by_step(port: Port, calls: Sequence[Call]) -> list[jax.Array]:
    cache, logits = calls[0].cache, []
    for call in calls:
        with blaming_the_port("forward"):
            returned = port.forward(call.input_ids, call.positions, call.mask, cache, call.tap)
        logits.append(_logits(returned))
        cache = returned[1]
    return logits


def _logits(value: Any) -> jax.Array:
    if not (isinstance(value, tuple) and len(value) == 2 and hasattr(value[0], "shape")):
        problem, expected = "forward() does not return (logits, cache)", "a tuple of two: logits [B, S, V], cache"
        hint = "return (logits, cache); a port without a cache returns (logits, None)"
        raise PortError(problem, expected=expected, found=type(value).__name__, hint=hint)
    with blaming_the_port("forward"):  # what JAX computes asynchronously fails only here
        logits: jax.Array = jax.block_until_ready(value[0])
    return logits
