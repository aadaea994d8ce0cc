"""Lets minimax-lib 0.2.0, written for JAX 0.4, run with releases that have dropped three names it needs.

For GPUs whose drivers need a newer JAX: put this folder on PYTHONPATH of the interpreter given as ``--minimax``, for
example by a script that ends in ``exec python "$@"``.
"""

import jax
import jax.interpreters.xla
from jax._src import core

for module, name, value in (
    (jax, "tree_map", jax.tree_util.tree_map),
    (jax, "jax", jax),
    (jax.interpreters.xla, "pytype_aval_mappings", core.pytype_aval_mappings),
):
    if not hasattr(module, name):
        setattr(module, name, value)
