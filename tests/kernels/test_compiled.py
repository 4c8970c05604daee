"""What the compiler makes of the kernels for an H100, which needs no GPU: no TF32, no float64."""

import os
import subprocess
import sys
import textwrap

import pytest

# In a process of its own: here Triton may be the interpreter.
COMPILE = textwrap.dedent(
    """
    import sys, types
    launch = types.ModuleType("kernels.launch")
    launch.BACKEND, launch.launch = "gpu", None
    sys.modules["kernels.launch"] = launch
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource
    from kernels.triton_stablef import _bw_gates, _bw_parallel_qk, _bw_parallel_v, _bw_recurrent, _bw_rows
    from kernels.triton_stablef import _fw_parallel, _fw_recurrent, _gates, _inner

    storage, operands = sys.argv[1:]
    constants = dict(DHQK=48, DHHV=48, CHUNK=32, KEEP=32, BLOCK_L=32, BLOCK_QK=32, BLOCK_HV=32, OPERANDS=operands)
    constants.update(INTERPRET=False, STABILIZE_CORRECTLY=True, EXACT=True, KEEP_STATES=True, NUM_SHARES=2)
    stored = ("matQ", "matK", "matV", "vecI", "matH", "matDeltaH", "matDeltaQ", "matDeltaK", "matDeltaV", "vecDeltaI")
    operand = {"matC_states": "bf16" if storage == "bf16" else "fp32"}
    operand["matDeltaC_states"] = operand["matC_states"]
    scalars = {"S": "i32", "share_stride": "i32", "qk_scale": "fp32", "log_norm_val": "fp32", "eps": "fp32"}
    scalars["scaSkip"] = "*i32"
    kernels = (
        _gates.mlstm_chunkwise_gates,
        _fw_recurrent.mlstm_chunkwise_fw_recurrent,
        _fw_parallel.mlstm_chunkwise_fw_parallel,
        _bw_rows.mlstm_chunkwise_bw_rows,
        _bw_recurrent.mlstm_chunkwise_bw_recurrent,
        _bw_parallel_qk.mlstm_chunkwise_bw_parallel_qk,
        _bw_parallel_v.mlstm_chunkwise_bw_parallel_v,
        _bw_gates.mlstm_chunkwise_bw_gates,
        _inner.mlstm_chunkwise_inner,
    )
    for kernel in kernels:
        names = kernel.arg_names
        own = {name: value for name, value in constants.items() if name in names}
        pointers = {name: "*" + operand.get(name, storage if name in stored else "fp32") for name in names}
        types_ = {name: "constexpr" if name in own else scalars.get(name, pointers[name]) for name in names}
        source = ASTSource(fn=kernel, signature=types_, constexprs=own)
        print(triton.compile(source, target=GPUTarget("cuda", 90, 32)).asm["ptx"])
    """
)


def ptx(storage: str, operands: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", COMPILE, storage, operands], capture_output=True, text=True, env=_environment()
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


def _environment() -> dict[str, str]:
    # jax-triton empties TRITON_CACHE_DIR, which Triton's own compile cannot do without.
    return {name: value for name, value in os.environ.items() if name not in ("TRITON_INTERPRET", "TRITON_CACHE_DIR")}


@pytest.mark.parametrize(
    ("storage", "operands", "units"),
    [("fp32", "ieee", set()), ("fp32", "tf32", {"tf32"}), ("bf16", "bf16", {"bf16"}), ("fp16", "fp16", {"tf32"})],
)
def test_dots_run_on_the_units_that_were_named(storage, operands, units):
    code = ptx(storage, operands)
    instructions = [line for line in code.splitlines() if "mma" in line and ".sync" in line and "fence" not in line]
    found = {unit for unit in ("tf32", "bf16", "f16.f16") if any(unit in line for line in instructions)}
    assert found == units
    # One float64 constant would turn a whole expression into float64.
    assert ".f64" not in code
