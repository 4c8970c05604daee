"""What the mLSTM is: its forms, each written once over an arithmetic.

A form says which operations to do, an ``Arithmetic`` says with which numbers. Nothing here knows
JAX, Triton or the kernels.
"""

from oracles._arithmetic import Arithmetic as Arithmetic
from oracles._definition import Contract as Contract
from oracles._definition import Inputs as Inputs
from oracles._definition import Outputs as Outputs
from oracles._float64 import Float64 as Float64
from oracles._mpmath import MPMath as MPMath
from oracles._parallel import parallel as parallel
from oracles._recurrent import recurrent as recurrent
from oracles._running_error import Precision as Precision
from oracles._running_error import RunningError as RunningError
from oracles._unstabilized import unstabilized as unstabilized

__all__ = [
    "Arithmetic",
    "Contract",
    "Float64",
    "Inputs",
    "MPMath",
    "Outputs",
    "Precision",
    "RunningError",
    "parallel",
    "recurrent",
    "unstabilized",
]
