"""What flax and jax make of our classes and functions, named for who checks types: their decorators hide it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ParamSpec, Protocol, TypeVar, runtime_checkable

if TYPE_CHECKING:
    from typing import Self

    import jax

_Arguments = ParamSpec("_Arguments")
_Result_co = TypeVar("_Result_co", covariant=True)


class Tree:
    """A `flax.struct.dataclass`, which `replace` copies with other fields."""

    if TYPE_CHECKING:

        def replace(self, **fields: Any) -> Self: ...


@runtime_checkable  # the tests check types while they run
class Jitted(Protocol[_Arguments, _Result_co]):
    """A function behind `jax.jit`: called, or lowered for shapes."""

    def __call__(self, *args: _Arguments.args, **kwargs: _Arguments.kwargs) -> _Result_co: ...

    def lower(self, *args: _Arguments.args, **kwargs: _Arguments.kwargs) -> jax.stages.Lowered: ...
