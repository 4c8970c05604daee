"""vmap by folding: the mapped axis joins the batch, which the kernels have anyway."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp


def folds_into_batch(function: Callable[..., Any]) -> Callable[..., Any]:
    """A function of arrays (B, ...), to arrays (B, ...), as one that vmap serves with a larger B."""
    mappable = jax.custom_batching.custom_vmap(function)

    @mappable.def_vmap
    def rule(axis_size: int, in_batched: Any, *arguments: Any) -> tuple[Any, Any]:
        def fold(batched: bool, array: jax.Array) -> jax.Array:
            whole = array if batched else jnp.broadcast_to(array, (axis_size, *array.shape))
            return whole.reshape(-1, *whole.shape[2:])

        folded = mappable(*jax.tree.map(fold, tuple(in_batched), arguments))
        outputs = jax.tree.map(lambda array: array.reshape(axis_size, -1, *array.shape[1:]), folded)
        return outputs, jax.tree.map(lambda _: True, outputs)

    def call(*arguments: Any) -> Any:
        # custom_vmap traces and compiles what it calls; outside of any transformation there is nothing to map.
        traced = any(isinstance(leaf, jax.core.Tracer) for leaf in jax.tree.leaves(arguments))
        return mappable(*arguments) if traced else function(*arguments)

    return call
