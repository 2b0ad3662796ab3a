"""What stands in for jax 0.10 where it is older is what that offers."""

from __future__ import annotations

from types import SimpleNamespace

import jax
import jax.numpy as jnp
import pytest

from harness.run.tracing import versions

NESTED = {
    "jit": lambda x: jax.jit(jnp.sin)(x),
    "scan": lambda x: jax.lax.scan(lambda c, y: (c + y, c), 0.0, x),
    "cond": lambda x: jax.lax.cond(x[0] > 0, jnp.sin, jnp.cos, x),
    "remat": lambda x: jax.checkpoint(jnp.sin)(x),
}


@pytest.mark.parametrize("name", NESTED)
def test_the_programs_in_an_equation_are_those_that_jax_finds(name):
    equations = jax.make_jaxpr(NESTED[name])(jnp.ones(3)).jaxpr.eqns
    found = [list(versions._jaxprs_in_params(equation.params)) for equation in equations]
    assert found == [list(versions.jaxprs_in_params(equation.params)) for equation in equations]
    assert sum(map(len, found)) == (2 if name == "cond" else 1)


@pytest.mark.parametrize("given", [(["function"], {"axis": 0}), {"functions": ["function"], "axis": 0}])
def test_functions_that_a_primitive_calls_are_operands_or_parameters(given):
    seen = []
    primitive = SimpleNamespace(
        get_bind_params=lambda params: given, bind=lambda *args, **kwargs: seen.append((args, kwargs))
    )
    versions.bound(SimpleNamespace(primitive=primitive), ["x"], {})
    before = (("function", "x"), {"axis": 0})
    assert seen == [before if isinstance(given, tuple) else (("x",), given)]
