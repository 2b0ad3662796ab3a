"""Float64 that is float64: every request for a smaller float becomes a request for float64.

`model.double()` is not enough. Model code casts to float32 by name, in the norms, the softmax and RoPE, and what
comes out is as far from the true function as plain float32 is (measured: 4.6e-7, against 4.2e-7).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Self

import torch
from torch.overrides import TorchFunctionMode

SMALLER = frozenset({torch.float32, torch.bfloat16, torch.float16})
CASTS = frozenset({torch.Tensor.float, torch.Tensor.bfloat16, torch.Tensor.half})


class EveryCall(TorchFunctionMode):
    """While active, every call of a torch function comes to `called`."""

    def called(self, func: Callable[..., Any], args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
        """What the call gives."""
        raise NotImplementedError

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Any,
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        return self.called(func, args, kwargs or {})


class Float64Mode(EveryCall):
    """While active, no torch function is asked for a float smaller than float64.

    It rewrites dtype arguments wherever they stand (`x.to(torch.float32)`, `softmax(x, dtype=torch.float32)`,
    `torch.arange(n, dtype=torch.float)`) and the casts that have the dtype in their name (`x.float()`); the
    default dtype, which factories use when they are not told, is float64 too. Use it while modules are
    constructed as well: RoPE computes its frequencies there.
    """

    def __enter__(self) -> Self:
        self._default = torch.get_default_dtype()
        torch.set_default_dtype(torch.float64)
        super().__enter__()
        return self

    def __exit__(self, *exception: Any) -> None:
        super().__exit__(*exception)
        torch.set_default_dtype(self._default)

    def called(self, func: Callable[..., Any], args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
        if func in CASTS:
            return args[0].double(*args[1:], **kwargs)
        promoted = {name: _promoted(value) for name, value in kwargs.items()}
        return func(*[_promoted(value) for value in args], **promoted)


def _promoted(value: Any) -> Any:
    return torch.float64 if isinstance(value, torch.dtype) and value in SMALLER else value
