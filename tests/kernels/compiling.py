"""Compiles the kernels for an H100, which needs no GPU; run in a process of its own, where Triton compiles.

``python -m tests.kernels.compiling STORAGE OPERANDS DHQK DHHV BLOCK_L`` prints JSON: for each kernel the PTX, the
TTGIR and the shared memory in bytes, with the tiles of the table.
"""

import importlib
import json
import sys
import types


class Untouched(types.ModuleType):
    """``kernels.launch`` without its choice of a backend, so that the decorators compile."""

    BACKEND, launch = "gpu", None


sys.modules["kernels.launch"] = Untouched("kernels.launch")

import triton  # noqa: E402
from triton.backends.compiler import GPUTarget  # noqa: E402
from triton.compiler import ASTSource  # noqa: E402

from kernels.triton_stablef._tiles import TABLE, tiles  # noqa: E402

STORED = {"matQ", "matK", "matV", "vecI", "matH", "matDeltaH", "matDeltaQ", "matDeltaK", "matDeltaV", "vecDeltaI"}
SCALARS = {"S": "i32", "share_stride": "i32", "scaSkip": "*i32"} | dict.fromkeys(
    ("qk_scale", "norm_val", "eps"), "fp32"
)
DTYPES = {"fp32": "float32", "bf16": "bfloat16", "fp16": "float16"}
NAMES = ("gates", "fw_recurrent", "fw_parallel", "bw_rows", "bw_recurrent", "bw_parallel_qk", "bw_parallel_v")
NAMES += ("bw_gates", "inner")


def compile_one(name, storage, operands, dhqk, dhhv, block_l):
    kernel = getattr(importlib.import_module(f"kernels.triton_stablef._{name}"), f"mlstm_chunkwise_{name}")
    # What enters nothing but dots is stored as their operand.
    states = "bf16" if storage == "bf16" else "fp32"
    constants = {"DHQK": dhqk, "DHHV": dhhv, "CHUNK": block_l, "KEEP": block_l, "BLOCK_L": block_l}
    constants |= {"OPERANDS": operands, "INTERPRET": False, "STABILIZE_CORRECTLY": True, "EXACT": True}
    constants |= {"KEEP_STATES": True, "NUM_SHARES": 2}
    options = {"num_warps": 1, "num_stages": 1}
    dtype = "float32" if name == "inner" else DTYPES[storage]
    if (name, dtype) in TABLE:
        tile = tiles(name, dhqk, dhhv, dtype)
        constants |= {"BLOCK_QK": tile.block_qk, "BLOCK_HV": tile.block_hv}
        options = {"num_warps": tile.num_warps, "num_stages": tile.num_stages}

    def pointer(argument):
        if argument in ("matC_states", "matDeltaC_states"):
            return "*" + states
        return "*" + (storage if argument in STORED else "fp32")

    own = {argument: constants[argument] for argument in kernel.arg_names if argument in constants}
    signature = {
        argument: "constexpr" if argument in own else SCALARS.get(argument, pointer(argument))
        for argument in kernel.arg_names
    }
    # JAX's buffers are aligned, which lets Triton copy to shared memory without registers.
    aligned = {(n,): [["tt.divisibility", 16]] for n, a in enumerate(kernel.arg_names) if signature[a].startswith("*")}
    source = ASTSource(fn=kernel, signature=signature, constexprs=own, attrs=aligned)
    return triton.compile(source, target=GPUTarget("cuda", 90, 32), options=options)


if __name__ == "__main__":
    sizes = [int(size) for size in sys.argv[3:]]
    compiled = {name: compile_one(name, *sys.argv[1:3], *sizes) for name in NAMES}
    print(
        json.dumps({
            name: {"ptx": one.asm["ptx"], "ttgir": one.asm["ttgir"], "shared": one.metadata.shared}
            for name, one in compiled.items()
        })
    )  # fmt: skip
