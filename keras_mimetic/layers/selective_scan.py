"""The recurrence of a selective state space, all positions at once or one by one.

    H_t = exp(A dt_t) H_(t-1) + dt_t x_t B_t^T        y_t = H_t C_t

for each head, H a matrix (head_dim, state_dim), A < 0. Heads come in groups that share
B and C. Arguments of both functions are all float32, or all float64.

Axes: b batch, c chunk (z both as one axis: mobile runtimes take at most five), l and s
positions of a chunk, s the earlier, g group, h head of a group, p head_dim, n state_dim.

Reference:

- Dao and Gu, 2024, "Transformers are SSMs" (arXiv:2405.21060): the form in chunks.
"""

from typing import Any

from keras import ops

from keras_mimetic.layers.sublayers import Tensor

# exp of it is 0 in float32 and float64. Sums of larger numbers would no longer be exact.
_LOG_ZERO = -1000.0
# Up to this many chunks are processed one by one; more are halved first.
_MAX_SEQUENTIAL = 8
# In a TensorFlow graph the number of chunks may be unknown, so stop after a fixed number of
# halvings: few chunks are left of up to some 100,000 positions.
_HALVINGS = 4


def chunk_scan(
    x: Tensor, dt: Tensor, a: Tensor, b: Tensor, c: Tensor, state: Tensor, chunk_size: int
) -> tuple[Tensor, Tensor]:
    """Compute y of all positions, and the last state, in time and memory linear in the length.

    Within a chunk of `chunk_size` positions this is a product with a matrix
    (chunk_size, chunk_size), as in attention; from chunk to chunk the state is passed on.

    Args:
        x: Shape (batch, length, num_heads, head_dim), like y.
        dt: Shape (batch, length, num_heads), >= 0. Positions of dt = 0 do not change the state.
        a: Shape (num_heads,), < 0.
        b, c: Shape (batch, length, num_groups, state_dim).
        state: H before the first position, shape (batch, num_heads, head_dim, state_dim).
    """
    batch, length, num_heads, head_dim = ops.shape(x)
    num_groups, state_dim = b.shape[-2:]
    heads_per_group = num_heads // num_groups
    num_chunks, chunk_size = _chunks(length, chunk_size)
    # Padding has dt = 0, which changes no state.
    padding = num_chunks * chunk_size - length

    def chunked(values: Tensor, *shape: int) -> Tensor:
        shape = (batch * num_chunks, chunk_size, num_groups, *shape)
        return reshape(_pad_end(values, padding), shape)

    # `matmul`, since XLA's `einsum` of these axes is slower on CPUs.
    dt_x = chunked(x * ops.expand_dims(dt, -1), heads_per_group, head_dim)  # zsghp
    b, c = (ops.transpose(chunked(z, state_dim), (0, 2, 1, 3)) for z in (b, c))  # zgsn, zgln
    log_decay = ops.transpose(chunked(dt * a, heads_per_group), (0, 2, 3, 1))
    log_since_start, decays = _segsum_decays(log_decay)

    # 1. Outputs from the inputs of the same chunk.
    scores = ops.matmul(c, ops.swapaxes(b, -1, -2))  # zgls
    y_diag = ops.matmul(ops.expand_dims(scores, 2) * decays, ops.transpose(dt_x, (0, 2, 3, 1, 4)))
    y_diag = ops.transpose(y_diag, (0, 3, 1, 2, 4))  # zlghp

    # 2. What each chunk adds to the state.
    decay_to_end = ops.transpose(decays[..., -1, :], (0, 3, 1, 2))
    states = ops.transpose(dt_x * ops.expand_dims(decay_to_end, -1), (0, 2, 3, 4, 1))  # zghps
    rows = (batch * num_chunks, num_groups, heads_per_group * head_dim)
    states = ops.matmul(reshape(states, (*rows, chunk_size)), b)

    # 3. The state before each chunk, and after the last.
    shape = (batch, num_chunks, num_heads)
    states, state = _state_passing(
        reshape(states, (*shape, head_dim, state_dim)),
        reshape(log_since_start[..., -1], (*shape, 1, 1)),
        state,
    )

    # 4. Outputs from the state before the chunk.
    decay_from_start = ops.transpose(ops.exp(log_since_start), (0, 3, 1, 2))
    y_off = ops.matmul(c, ops.swapaxes(reshape(states, (*rows, state_dim)), -1, -2))
    y_off = reshape(ops.transpose(y_off, (0, 2, 1, 3)), ops.shape(dt_x))  # zlghp
    y = reshape(
        y_off * ops.expand_dims(decay_from_start, -1) + y_diag,
        (batch, num_chunks * chunk_size, num_heads, head_dim),
    )
    return y[:, :length], state


def _chunks(length: int | Tensor, chunk_size: int) -> tuple[int | Tensor, int]:
    """Return the number of chunks of a sequence, at least 1, and their size."""
    # Rounded up by adding first: exported graphs divide integers toward zero.
    num_chunks = (length + chunk_size - 1) // chunk_size
    if not isinstance(length, int):
        return num_chunks, chunk_size
    return max(1, num_chunks), min(chunk_size, max(1, length))


def _state_passing(
    states: Tensor, log_decay: Tensor, state: Tensor, halvings: int = 0
) -> tuple[Tensor, Tensor]:
    """Return the state before each chunk, and after the last.

    Pairs of chunks are merged while there are many. Keras's scans do not help: on torch the
    gradient of `scan` takes time quadratic in the number of chunks, and on TensorFlow, XLA
    does not compile all of either.

    Args:
        states: What each chunk adds, (batch, num_chunks, num_heads, head_dim, state_dim).
        log_decay: Log decay of each chunk, (batch, num_chunks, num_heads, 1, 1).
        state: The state before the first chunk.
        halvings: Number of halvings so far.
    """
    batch, num_chunks = ops.shape(states)[:2]
    shape = states.shape[2:]
    if isinstance(num_chunks, int):
        if num_chunks <= _MAX_SEQUENTIAL:
            return _state_passing_sequential(states, log_decay, state)
    elif halvings == _HALVINGS:
        return _state_passing_matrix(states, log_decay, state)
    half = (num_chunks + 1) // 2
    # An odd number of chunks gets one more, which changes no state.
    (added1, added2), (log1, log2) = (
        ops.unstack(
            reshape(_pad_end(z, 2 * half - num_chunks), (batch * half, 2, *z.shape[2:])), 2, axis=1
        )
        for z in (states, log_decay)
    )
    added = reshape(added1 * ops.exp(log2) + added2, (batch, half, *shape))
    log_added = reshape(log1 + log2, (batch, half, shape[0], 1, 1))
    before, state = _state_passing(added, log_added, state, halvings + 1)
    before = reshape(before, (batch * half, *shape))
    before = ops.stack((before, before * ops.exp(log1) + added1), axis=1)
    return reshape(before, (batch, 2 * half, *shape))[:, :num_chunks], state


def _state_passing_sequential(
    states: Tensor, log_decay: Tensor, state: Tensor
) -> tuple[Tensor, Tensor]:
    """Do as `_state_passing`, chunk by chunk."""
    num_chunks = states.shape[1]
    before = []
    for added, decay in zip(
        ops.unstack(states, num_chunks, axis=1),
        ops.unstack(ops.exp(log_decay), num_chunks, axis=1),
        strict=True,
    ):
        before.append(state)
        state = state * decay + added
    return ops.stack(before, axis=1), state


def _state_passing_matrix(
    states: Tensor, log_decay: Tensor, state: Tensor
) -> tuple[Tensor, Tensor]:
    """Do as `_state_passing`, by a matrix (num_chunks + 1, num_chunks + 1)."""
    # The initial state is the contribution of an extra leading chunk.
    states = ops.concatenate((ops.expand_dims(state, 1), states), axis=1)
    log_decay = ops.pad(ops.transpose(log_decay[..., 0, 0], (0, 2, 1)), [[0, 0], [0, 0], [1, 0]])
    _, decays = _segsum_decays(log_decay)
    shape = (*ops.shape(states)[:3], states.shape[3] * states.shape[4])
    flat = ops.matmul(decays, ops.transpose(reshape(states, shape), (0, 2, 1, 3)))
    states = reshape(ops.transpose(flat, (0, 2, 1, 3)), ops.shape(states))
    # Count from the end: JAX accepts no symbolic size as an index.
    return states[:, :-1], states[:, -1]


def _segsum_decays(log_decay: Tensor) -> tuple[Tensor, Tensor]:
    """Return the decays over all segments: exp(segsum(log_decay)) in Mamba-2's terms.

    For `log_decay` (..., length) <= 0, return its sum over positions up to l, (..., length),
    and exp of its sum over positions after s up to l, (..., length, length), 0 for s > l.
    """
    log_decay = ops.maximum(log_decay, _LOG_ZERO)
    # Differences of running sums would lose the digits of small terms after large ones.
    # Those of integers are exact, and those of the remainders stay small.
    integers = ops.stop_gradient(ops.round(log_decay))
    remainders = ops.cumsum(log_decay - integers, axis=-1)
    integers = ops.cumsum(integers, axis=-1)
    position = ops.arange(0, ops.shape(log_decay)[-1], dtype=log_decay.dtype)
    distance = _differences(position)
    # Sums for s > l need only not overflow, since their exp is multiplied by 0: exp(-inf) takes
    # three times as long. Remainders are at most 1/2.
    segments = ops.minimum(_differences(integers), 0.5 * ops.minimum(distance, 0.0))
    segments = segments + _differences(remainders)
    is_causal = ops.cast(distance >= 0, log_decay.dtype)
    return integers + remainders, ops.exp(segments) * is_causal


def _differences(values: Tensor) -> Tensor:
    """Subtract each value of the last axis from each."""
    # Not `values[..., None]`, which LiteRT cannot run on sizes that are not known.
    return ops.expand_dims(values, -1) - ops.expand_dims(values, -2)


def reshape(values: Tensor, shape: tuple[Any, ...]) -> Tensor:
    """Reshape a tensor by its own method, if it has one.

    `ops.reshape` searches the shape for symbolic tensors, which on torch takes ten times as long
    as the reshape itself.
    """
    method = getattr(values, "reshape", None)
    return ops.reshape(values, shape) if method is None else method(shape)


def _pad_end(values: Tensor, size: int | Tensor) -> Tensor:
    """Append `size` zeros to the second axis."""
    if isinstance(size, int) and not size:
        return values
    return ops.pad(values, [[0, size if axis == 1 else 0] for axis in range(len(values.shape))])


def selective_state_update(
    x: Tensor, dt: Tensor, a: Tensor, b: Tensor, c: Tensor, state: Tensor
) -> tuple[Tensor, Tensor]:
    """Compute the next position: arguments of `chunk_scan` without their axis of length."""
    heads_per_group = x.shape[-2] // b.shape[-2]
    b, c = (ops.repeat(z, heads_per_group, axis=-2)[..., None, :] for z in (b, c))
    decay = ops.exp(dt * a)[..., None, None]
    state = state * decay + (x * dt[..., None])[..., None] * b
    return ops.sum(state * c, axis=-1), state
