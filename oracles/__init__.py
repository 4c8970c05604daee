"""What the mLSTM is: its forms, each written once over an arithmetic.

A form says which operations to do, an ``Arithmetic`` says with which numbers. Nothing here knows
JAX, Triton or the kernels.
"""

from oracles._arithmetic import Arithmetic as Arithmetic
from oracles._ball import Ball as Ball
from oracles._chunkwise import chunkwise as chunkwise
from oracles._chunkwise_vjp import chunkwise_and_vjp as chunkwise_and_vjp
from oracles._chunkwise_vjp import chunkwise_vjp as chunkwise_vjp
from oracles._cotangents import Cotangents as Cotangents
from oracles._cotangents import Gradients as Gradients
from oracles._cotangents import NormalizerGrad as NormalizerGrad
from oracles._definition import Contract as Contract
from oracles._definition import Inputs as Inputs
from oracles._definition import Outputs as Outputs
from oracles._enclosure import EnclosureError as EnclosureError
from oracles._enclosure import enclose as enclose
from oracles._float64 import Float64 as Float64
from oracles._monte_carlo import MonteCarlo as MonteCarlo
from oracles._mpmath import MPMath as MPMath
from oracles._parallel import parallel as parallel
from oracles._parallel_vjp import parallel_vjp as parallel_vjp
from oracles._precision import Precision as Precision
from oracles._recurrent import recurrent as recurrent
from oracles._recurrent_vjp import recurrent_and_vjp as recurrent_and_vjp
from oracles._recurrent_vjp import recurrent_vjp as recurrent_vjp
from oracles._running_error import RunningError as RunningError
from oracles._unstabilized import unstabilized as unstabilized

__all__ = [
    "Arithmetic",
    "Ball",
    "Contract",
    "Cotangents",
    "EnclosureError",
    "Float64",
    "Gradients",
    "Inputs",
    "MPMath",
    "MonteCarlo",
    "NormalizerGrad",
    "Outputs",
    "Precision",
    "RunningError",
    "chunkwise",
    "chunkwise_and_vjp",
    "chunkwise_vjp",
    "enclose",
    "parallel",
    "parallel_vjp",
    "recurrent",
    "recurrent_and_vjp",
    "recurrent_vjp",
    "unstabilized",
]
