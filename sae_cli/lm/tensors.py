"""The one tensor of a module's input or output that a tap means, read and put back.

Modules are called with positional or keyword arguments and return a tensor or a tuple that
starts with it, depending on the architecture and the transformers version.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor


def get_input(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor:
    """The first positional argument, else `hidden_states`, else the first keyword tensor."""
    if args:
        found = args[0]
    elif "hidden_states" in kwargs:
        found = kwargs["hidden_states"]
    else:
        found = next(value for value in kwargs.values() if isinstance(value, Tensor))
    assert isinstance(found, Tensor)
    return found


def set_input(
    args: tuple[Any, ...], kwargs: dict[str, Any], new: Tensor
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """The same call with the tensor that `get_input` finds replaced by `new`."""
    if args:
        return (new, *args[1:]), kwargs
    old = get_input(args, kwargs)
    key = next(key for key, value in kwargs.items() if value is old)
    return args, {**kwargs, key: new}


def get_output(output: Any) -> Tensor:
    """The tensor, or element 0 of a tuple."""
    found = output[0] if isinstance(output, tuple) else output
    assert isinstance(found, Tensor)
    return found


def set_output(output: Any, new: Tensor) -> Any:
    """The same output with the tensor that `get_output` finds replaced by `new`."""
    return (new, *output[1:]) if isinstance(output, tuple) else new
