"""Faults around a correct subject: in what goes in, in what comes out, and in which dims, heads or cases they are.

``AROUND`` has (name, what it does, group, grade, fault, fields of a case that sees it); a fault takes the subject and
returns the wrong one.
"""

import functools

import jax
import jax.numpy as jnp
import ml_dtypes


def of_arguments(change):
    """A fault in what goes in: ``change`` takes the keywords and returns those that differ."""

    def fault(subject):
        @functools.wraps(subject)
        def wrong(**given):
            return subject(**given | change(**given))

        return wrong

    return fault


def of_results(change):
    """A fault in what comes out: ``change`` takes h and the last state or None, and the keywords."""

    def fault(subject):
        @functools.wraps(subject)
        def wrong(**given):
            returned = subject(**given)
            h, last = returned if isinstance(returned, tuple) else (returned, None)
            h, last = change(h, last, subject=subject, **given)
            return h if last is None else (h, last)

        return wrong

    return fault


def power_of_two(size):
    return 2 ** (size.bit_length() - 1)


@of_arguments
def input_gate_is_a_sigmoid(i, **_):
    return {"i": jax.nn.log_sigmoid(i)}


@of_arguments
def input_gate_at_most_20(i, **_):
    return {"i": jnp.minimum(i, 20)}


@of_arguments
def gates_swapped(i, f, **_):
    return {"i": f.astype(i.dtype), "f": i.astype(f.dtype)}


@of_arguments
def gates_of_head_0(f, **_):
    return {"f": jnp.broadcast_to(f[:, :1], f.shape)}


@of_arguments
def keys_of_batch_0(k, **_):
    return {"k": jnp.broadcast_to(k[:1], k.shape)}


@of_arguments
def forget_gate_in_the_kernel_dtype(q, f, **_):
    return {"f": f.astype(q.dtype).astype(f.dtype)}


@of_arguments
def reset_is_minus_30(f, **_):
    return {"f": jnp.maximum(f, -30)}


@of_arguments
def dead_input_is_minus_50(i, **_):
    return {"i": jnp.where(jnp.isneginf(i), jnp.asarray(-50, i.dtype), i)}


@of_arguments
def m_0_ignored(m_initial=None, **_):
    return {} if m_initial is None else {"m_initial": 0 * m_initial}


@of_arguments
def n_0_ignored(n_initial=None, **_):
    return {} if n_initial is None else {"n_initial": 0 * n_initial}


@of_arguments
def c_0_transposed(c_initial=None, **_):
    square = c_initial is not None and c_initial.shape[-1] == c_initial.shape[-2]
    return {"c_initial": jnp.swapaxes(c_initial, -1, -2)} if square else {}


@of_arguments
def c_0_in_the_kernel_dtype(q, c_initial=None, **_):
    return {} if c_initial is None else {"c_initial": c_initial.astype(q.dtype).astype(jnp.float32)}


@of_arguments
def no_forgetting_of_one_token(f, **_):
    return {"f": f + jnp.inf} if f.shape[-1] == 1 else {}


@of_arguments
def initial_state_skipped_in_one_chunk(q, chunk_size, c_initial=None, n_initial=None, **_):
    if c_initial is None or q.shape[2] > chunk_size:
        return {}
    return {"c_initial": 0 * c_initial, "n_initial": 0 * n_initial}


@of_arguments
def channels_of_keys_beyond_a_power_of_two(k, **_):
    return {"k": jnp.where(jnp.arange(k.shape[-1]) < power_of_two(k.shape[-1]), k, 0)}


@of_arguments
def scale_of_the_values(q, v, **_):
    return {"q": q * (q.shape[-1] / v.shape[-1]) ** 0.5}


@of_arguments
def scale_twice(k, **_):
    return {"k": k * k.shape[-1] ** -0.5}


@of_results
def channels_of_values_beyond_a_power_of_two(h, last, **_):
    return jnp.where(jnp.arange(h.shape[-1]) < power_of_two(h.shape[-1]), h, 0), last


@of_results
def all_zeros(h, last, **_):
    return jnp.zeros_like(h), last


@of_results
def h_in_bfloat16(h, last, **_):
    return h.astype(ml_dtypes.bfloat16).astype(h.dtype), last


@of_results
def a_little_of_the_next_value(h, last, *, v, **_):
    return h.at[:, :, :-1].add(jnp.asarray(1e-5, h.dtype) * v[:, :, 1:]), last


@of_results
def padding_with_an_input_gate(h, last, *, chunk_size, **_):
    if last is None or h.shape[2] % chunk_size == 0:
        return h, last
    C, n, m = last
    larger = jnp.maximum(m, 0)
    return h, (C * jnp.exp(m - larger)[..., None, None], n * jnp.exp(m - larger)[..., None], larger)


@of_results
def last_state_of_whole_chunks(h, last, *, subject, q, k, v, i, f, chunk_size, **given):
    whole = q.shape[2] // chunk_size * chunk_size
    if last is None or whole in (0, q.shape[2]):
        return h, last
    arrays = [array[:, :, :whole] for array in (q, k, v, i, f)]
    return h, subject(*arrays, chunk_size=chunk_size, **given)[1]


def of_gradients(change):
    """A fault in the gradient of one input: ``change`` names the input, and takes gradient, input and keywords."""
    name = change.__name__.split("_")[0]

    def fault(subject):
        @functools.wraps(subject)
        def wrong(**given):
            others = {key: value for key, value in given.items() if key != name}

            @jax.custom_vjp
            def spoiled(x):
                return x

            spoiled.defvjp(lambda x: (x, x), lambda x, gradient: (change(gradient, x, **others),))
            return subject(**others | {name: spoiled(given[name])})

        return wrong

    return fault


@of_gradients
def k_gradient_twice_scaled(dk, k, **_):
    return dk * jnp.asarray(k.shape[-1] ** -0.5, dk.dtype)


@of_gradients
def q_gradient_of_whole_chunks(dq, q, *, chunk_size, **_):
    length = q.shape[2]
    return jnp.where(jnp.arange(length)[:, None] < max(length // chunk_size, 1) * chunk_size, dq, 0)


@of_gradients
def f_gradient_of_the_next_token(df, f, **_):
    return jnp.roll(df, -1, axis=-1)


@of_gradients
def v_gradient_in_bfloat16(dv, v, **_):
    return dv.astype(ml_dtypes.bfloat16).astype(dv.dtype)


@of_gradients
def i_gradient_of_a_cap(di, i, **_):
    return jnp.where(abs(i) < 15, di, 0)


UNEQUAL = {"dhqk": 48, "dhhv": 80}
RAGGED = {"regime": "input_gates@-20"}
AROUND = (
    ("input gate through a sigmoid", "The input gate is sigma(i), not exp(i).", "gates", "easy",
     input_gate_is_a_sigmoid, {}),
    ("input gate at most 20", "i is capped at 20.", "gates", "medium",
     input_gate_at_most_20, {"regime": "input_gates@20"}),
    ("gates swapped", "i is taken for f and f for i (NX-AI/xlstm#98).", "gates", "easy", gates_swapped, {}),
    ("gates of head 0", "Every head has the forget gates of the first.", "gates", "medium",
     gates_of_head_0, {"heads": 2}),
    ("forget gate in the kernel's dtype", "f is rounded to the dtype of q.", "gates", "hard",
     forget_gate_in_the_kernel_dtype, {"dtype": "bfloat16"}),
    ("m_0 ignored", "m_initial is taken for 0.", "states", "easy", m_0_ignored, {"initial": "warm@50"}),
    ("n_0 ignored", "n_initial is taken for 0.", "states", "medium", n_0_ignored, {"initial": "warm@2"}),
    ("C_0 transposed", "A square c_initial is transposed.", "states", "medium",
     c_0_transposed, {"initial": "warm@2"}),
    ("C_0 in the kernel's dtype", "c_initial is rounded to the dtype of q.", "states", "hard",
     c_0_in_the_kernel_dtype, {"initial": "warm@50", "dtype": "bfloat16"}),
    ("one token does not forget", "With S = 1 the initial state is not decayed.", "states", "hard",
     no_forgetting_of_one_token, {"length": 1, "initial": "warm@2"}),
    ("initial state of one chunk ignored", "C_0 and n_0 are not read where S is at most the chunk size.", "states",
     "hard", initial_state_skipped_in_one_chunk, {"length": 16, "initial": "warm@2"}),
    ("padding has an input gate", "What fills the last chunk has i = 0, which the last m sees.", "states", "medium",
     padding_with_an_input_gate, RAGGED),
    ("last state of whole chunks", "The tokens of a last chunk that is not full are not in the last state.", "states",
     "medium", last_state_of_whole_chunks, {}),
    ("h in bfloat16", "h is rounded to bfloat16 in a float32 kernel.", "precision", "easy", h_in_bfloat16, {}),
    ("a little of the next value", "h_t has 1e-5 of v_{t+1}.", "causality", "hard",
     a_little_of_the_next_value, {"regime": "forget@10"}),
    ("keys of batch 0", "Every batch has the keys of the first.", "special values", "medium",
     keys_of_batch_0, {"batch": 2}),
    ("channels of q and k beyond a power of two", "They are dropped.", "special values", "medium",
     channels_of_keys_beyond_a_power_of_two, UNEQUAL),
    ("channels of v beyond a power of two", "They are dropped.", "special values", "medium",
     channels_of_values_beyond_a_power_of_two, UNEQUAL),
    ("scale of the values", "q.k is scaled by DHHV^-1/2.", "special values", "medium", scale_of_the_values, UNEQUAL),
    ("scale twice", "q.k is scaled by 1 / DHQK.", "special values", "easy", scale_twice, {}),
    ("all zeros", "h is 0 (ScalingIntelligence/KernelBench#165).", "special values", "easy", all_zeros, {}),
    ("i = -inf is -50", "No input is a small input.", "special values", "medium",
     dead_input_is_minus_50, {"regime": "dead_input"}),
    ("f = -inf is -30", "A reset forgets all but exp(-30).", "special values", "hard",
     reset_is_minus_30, {"regime": "reset", "initial": "warm@50"}),
    ("dk scaled twice", "dk has DHQK^-1/2 once too often.", "gradients", "easy", k_gradient_twice_scaled, {}),
    ("dq of whole chunks", "dq is 0 in a last chunk that is not full.", "gradients", "easy",
     q_gradient_of_whole_chunks, {}),
    ("df of the next token", "df is shifted by one.", "gradients", "easy", f_gradient_of_the_next_token, {}),
    ("dv in bfloat16", "dv is rounded to bfloat16 in a float32 kernel.", "gradients", "medium",
     v_gradient_in_bfloat16, {}),
    ("di of a cap", "di is 0 beyond a soft cap at 15 that the forward pass does not have.", "gradients", "medium",
     i_gradient_of_a_cap, {"regime": "input_gates@20"}),
)  # fmt: skip
