"""The recurrence of a selective state space, all places at once or one by one.

    H_t = exp(decay step_t) H_(t-1) + step_t x_t b_t^T        y_t = H_t c_t

for each head, H a matrix (head_dim, state_dim), `decay` < 0. Heads come in groups
that share b and c. Arguments of both functions are all float32, or all float64.

Reference:

- Dao and Gu, 2024, "Transformers are SSMs" (arXiv:2405.21060): the form in chunks.
"""

from typing import Any

from keras import ops


def scan_in_chunks(
    x: Any, step: Any, decay: Any, b: Any, c: Any, state: Any, chunk: int
) -> tuple[Any, Any]:
    """All places at once, in time and memory linear in the length.

    Within a chunk it is a product with a matrix (chunk, chunk), as in attention;
    from chunk to chunk the state is handed on.

    Args:
        x: Of shape (batch, length, heads, head_dim).
        step: (batch, length, heads), >= 0; where it is 0, the state stays as it is.
        decay: (heads,), < 0.
        b: (batch, length, groups, state_dim).
        c: The same.
        state: H before the first place, (batch, heads, head_dim, state_dim).
        chunk: Places a chunk.

    Returns:
        y, of the shape of x, and H after the last place.
    """
    batch, length, heads, head_dim = ops.shape(x)
    groups, state_dim = b.shape[-2:]
    in_group = heads // groups
    # Rounded up by adding first: exported graphs divide integers toward zero.
    count = (length + chunk - 1) // chunk
    if isinstance(length, int):
        # One, if there is no place at all; and none longer than the sequence.
        count, chunk = max(1, count), min(chunk, max(1, length))
    # What fills up the last chunk has steps of 0, which change no state.
    missing = count * chunk - length

    def chunked(values: Any, *shape: int) -> Any:
        # Batch and chunks are one axis: mobile runtimes take no more than five.
        return ops.reshape(_filled(values, missing), (batch * count, chunk, groups, *shape))

    # (batch count, groups, in_group, chunk, head_dim): what each place writes.
    writes = chunked(x * ops.expand_dims(step, -1), in_group, head_dim)
    writes = ops.transpose(writes, (0, 2, 3, 1, 4))
    b, c = (ops.transpose(chunked(z, state_dim), (0, 2, 1, 3)) for z in (b, c))
    # (batch count, groups, in_group, chunk): the logarithm of what each place keeps of the
    # state, and of what is left of it since the chunk's beginning.
    log_kept = ops.transpose(chunked(step * decay, in_group), (0, 2, 3, 1))
    log_left, decays = _decays(log_kept)

    # Within chunks: (..., in_group, chunk, chunk) weights of places for later ones.
    alike = ops.matmul(c, ops.swapaxes(b, -1, -2))
    within = ops.matmul(ops.expand_dims(alike, 2) * decays, writes)

    # What each chunk adds to the state, (batch, count, heads, head_dim state_dim).
    kept = ops.swapaxes(writes * ops.expand_dims(decays[..., -1, :], -1), -1, -2)
    kept = ops.reshape(kept, (batch * count, groups, in_group * head_dim, chunk))
    adds = ops.reshape(ops.matmul(kept, b), (batch, count, heads, head_dim * state_dim))
    log_kept = ops.reshape(log_left[..., -1], (batch, count, heads, 1))
    flat = ops.reshape(state, (batch, heads, head_dim * state_dim))
    before, flat = _hand_on(adds, log_kept, flat)

    # What the state before a chunk gives to its places.
    before = ops.reshape(before, (batch * count, groups, in_group * head_dim, state_dim))
    across = ops.matmul(c, ops.swapaxes(before, -1, -2))
    across = ops.reshape(across, (batch * count, groups, chunk, in_group, head_dim))
    across = ops.transpose(across, (0, 1, 3, 2, 4)) * ops.expand_dims(ops.exp(log_left), -1)

    y = ops.transpose(within + across, (0, 3, 1, 2, 4))
    y = ops.reshape(y, (batch, count * chunk, heads, head_dim))
    return y[:, :length], ops.reshape(flat, (batch, heads, head_dim, state_dim))


def _hand_on(adds: Any, log_kept: Any, state: Any, halvings: int = 0) -> tuple[Any, Any]:
    """The state before each chunk, and after the last: by halves, pairs of chunks as one.

    Not by Keras's scans: on torch the gradient of `scan` takes a time that grows with the
    square of the number of chunks, and on TensorFlow XLA does not compile all of either.

    Args:
        adds: What each chunk adds, (batch, count, heads, head_dim state_dim).
        log_kept: Logarithm of what each keeps of it, (batch, count, heads, 1).
        state: Before the first.
        halvings: Done before.
    """
    batch, count = ops.shape(adds)[:2]
    heads = adds.shape[2]
    if isinstance(count, int):
        if count == 1:
            return state[:, None], state * ops.exp(log_kept[:, 0]) + adds[:, 0]
    elif halvings == _HALVINGS:
        return _hand_on_at_once(adds, log_kept, state)
    half = (count + 1) // 2
    # One more, if their number is odd, that keeps all and adds nothing.
    pairs = (
        ops.reshape(_filled(z, 2 * half - count), (batch, half, 2, heads, z.shape[-1]))
        for z in (adds, log_kept)
    )
    (add1, add2), (log1, log2) = (ops.unstack(z, 2, axis=2) for z in pairs)
    added = add1 * ops.exp(log2) + add2
    before, state = _hand_on(added, log1 + log2, state, halvings + 1)
    between = before * ops.exp(log1) + add1
    both = ops.stack((before, between), axis=2)
    both = ops.reshape(both, (batch, 2 * half, heads, adds.shape[-1]))
    return both[:, :count], state


# Where their number is not known, as in TensorFlow's graphs, it cannot be halved to 1.
# After so many halvings there are few enough, up to sequences of some 100,000 places.
_HALVINGS = 4


def _hand_on_at_once(adds: Any, log_kept: Any, state: Any) -> tuple[Any, Any]:
    """The same by a matrix (count + 1, count + 1)."""
    # The state before the first is what one more adds, before which there is nothing.
    adds = ops.concatenate((state[:, None], adds), axis=1)
    log_kept = ops.pad(ops.transpose(log_kept[..., 0], (0, 2, 1)), [[0, 0], [0, 0], [1, 0]])
    _, decays = _decays(log_kept)
    states = ops.matmul(decays, ops.transpose(adds, (0, 2, 1, 3)))
    states = ops.transpose(states, (0, 2, 1, 3))
    # From the end: JAX takes no symbolic size as an index.
    return states[:, :-1], states[:, -1]


def _decays(log_kept: Any) -> tuple[Any, Any]:
    """What is left, from place to place.

    Args:
        log_kept: Logarithm of what each place keeps of the state, (..., length), <= 0.

    Returns:
        The logarithm of what is left since the beginning, (..., length), and what is left
        at each place of what each wrote, (..., length, length), 0 for later ones.
    """
    log_kept = ops.maximum(log_kept, _LOG_NOTHING)
    # Differences of running sums would lose the digits of small ones after large ones.
    # Those of whole numbers are exact; those of the rest stay small.
    whole = ops.stop_gradient(ops.round(log_kept))
    sums = [ops.cumsum(part, axis=-1) for part in (whole, log_kept - whole)]
    between = sum(ops.expand_dims(part, -1) - ops.expand_dims(part, -2) for part in sums)
    place = ops.arange(0, ops.shape(log_kept)[-1])
    is_left = place[:, None] >= place[None, :]
    return sum(sums), ops.exp(ops.where(is_left, between, -float("inf")))


# The logarithm of what is 0 in float32 and float64. Sums of larger ones would be exact no more.
_LOG_NOTHING = -1000.0


def _filled(values: Any, missing: Any) -> Any:
    """With so many zeros at the end of the second axis."""
    if isinstance(missing, int) and not missing:
        return values
    return ops.pad(values, [[0, missing if axis == 1 else 0] for axis in range(len(values.shape))])


def scan_one(x: Any, step: Any, decay: Any, b: Any, c: Any, state: Any) -> tuple[Any, Any]:
    """The next place: arguments of `scan_in_chunks` without their axis of length."""
    in_group = x.shape[-2] // b.shape[-2]
    b, c = (ops.repeat(z, in_group, axis=-2)[..., None, :] for z in (b, c))
    keeps = ops.exp(step * decay)[..., None, None]
    state = state * keeps + (x * step[..., None])[..., None] * b
    return ops.sum(state * c, axis=-1), state
