"""PMR once more, slowly: numpy float64, one sample at a time, loops over modalities, heads and time steps.

It is written from the equations of PMR (Lv et al., "Progressive Modality Reinforcement for Human Multimodal Emotion
Recognition from Unaligned Multimodal Sequences", CVPR 2021, section 3) and shares no code with the PyTorch model, so
that the two can check each other. What the paper leaves open (the embedding, the read-out, the low-rank form of W_m,
padding) follows the project's description of its models. There is no batching and no dropout.

Everywhere `p` maps parameter names to float64 arrays, `name` is the dotted name of the module that is computed, and a
sequence is an array (T, d). `hidden` is a list of T booleans, true where attention must not see a key, or None.
`record`, a result of new_record(), collects each gate G and each alpha by the name of its module.
"""

import math

import numpy as np

HUB_ORDER = "lva"  # the order in time of the message hub and of the read-out's segments
OUTPUT_ORDER = "lav"  # the order in which hidden state and alphas name the modalities
LAYER_NORM_EPS = 1e-5


def new_record():
    return {"gates": {}, "alphas": {}}


# ---- building blocks -------------------------------------------------------------------------------------------------


def linear(p, name, x):
    """y = W x + b, for one vector."""
    return p[f"{name}.weight"] @ x + p[f"{name}.bias"]


def layer_norm(p, name, sequence):
    """LN: each step to mean 0 and (biased) variance 1 over the features, then scale and shift."""
    out = np.zeros_like(sequence)
    for t, x in enumerate(sequence):
        mean = sum(x) / len(x)
        variance = sum((x - mean) ** 2) / len(x)
        out[t] = (x - mean) / math.sqrt(variance + LAYER_NORM_EPS) * p[f"{name}.weight"] + p[f"{name}.bias"]
    return out


def softmax(scores):
    exps = np.exp(np.array(scores) - max(scores))
    return exps / exps.sum()


def place_in(lengths, n):
    """The segment that step n of the joined segments is in, and its number there, from 0."""
    segment = 0
    while n >= lengths[segment]:
        n -= lengths[segment]
        segment += 1
    return segment, n


def sees(t, length, s, source_length):
    """Whether the causal mask lets step t of a segment see step s of another. A hub of tokens has no end in time."""
    return math.inf in (length, source_length) or s <= t + abs(length - source_length)


def attention(p, name, target, source, heads, hidden=None, lengths=None, window=math.inf):
    """Multi-head attention from target to source: softmax(q k^T / sqrt(d_h)) v per head, then the output map.

    `lengths` are those of the target's segments and of the source's, for the causal mask: s <= t + |T_p - T_q|.
    Of a target that is its own source, a step sees those less than `window` steps away.
    """
    width = target.shape[1]
    size = width // heads
    weight, bias = p[f"{name}.in_proj_weight"], p[f"{name}.in_proj_bias"]
    visible = [s for s in range(len(source)) if hidden is None or not hidden[s]]
    out = np.zeros_like(target)  # and so it stays where there is nothing to see
    for head in range(heads):
        rows = slice(head * size, (head + 1) * size)  # of this head in q; those in k and v are one and two widths on
        q, k, v = [(weight[i * width:][rows], bias[i * width:][rows]) for i in range(3)]
        keys = [k[0] @ source[s] + k[1] for s in visible]
        values = [v[0] @ source[s] + v[1] for s in visible]
        for n in range(len(target)):
            query, seen = q[0] @ target[n] + q[1], [i for i, s in enumerate(visible) if abs(n - s) < window]
            if lengths is not None:
                (segment, t), places = place_in(lengths[0], n), [place_in(lengths[1], s) for s in visible]
                seen = [i for i in seen if sees(t, lengths[0][segment], places[i][1], lengths[1][places[i][0]])]
            if seen:
                weights = softmax([query @ keys[i] / math.sqrt(size) for i in seen])
                out[n, rows] = sum(w * values[i] for w, i in zip(weights, seen, strict=True))
    return np.array([linear(p, f"{name}.out_proj", joined) for joined in out])


def feed_forward(p, name, norm_name, sequence):
    """Pre-norm residual FFN: x + W_2 relu(W_1 LN(x) + b_1) + b_2 at each step."""
    normed = layer_norm(p, norm_name, sequence)
    out = np.zeros_like(sequence)
    for t in range(len(sequence)):
        inner = np.maximum(linear(p, f"{name}.fc1", normed[t]), 0.0)
        out[t] = sequence[t] + linear(p, f"{name}.fc2", inner)
    return out


# ---- embedding -------------------------------------------------------------------------------------------------------


def position_vector(position, width):
    """[sin(position * rate_i) | cos(position * rate_i)], rate_i = 10000^(-i / (width // 2 - 1)); odd width: 0 last."""
    half = width // 2
    vector = np.zeros(width)
    for i in range(half):
        rate = math.exp(-i * math.log(10000.0) / (half - 1))
        vector[i] = math.sin(position * rate)
        vector[half + i] = math.cos(position * rate)
    return vector


def find_padding(x):
    """A step whose features are all exactly 0 is padding."""
    return [all(value == 0.0 for value in step) for step in x]


def convolve(weight, x):
    """1-d convolution over time without bias, zeros outside, length kept; weight is (d, d_m, kernel)."""
    width, _, kernel = weight.shape
    out = np.zeros((len(x), width))
    for t in range(len(x)):
        for j in range(kernel):
            s = t + j - (kernel - 1) // 2
            if 0 <= s < len(x):
                out[t] += weight[:, :, j] @ x[s]
    return out


def project(p, name, x):
    """To width d; where x has that width and the kernel is 1, x stays as it is and the weight is of no account."""
    weight = p[f"{name}.weight"]
    if x.shape[1] == weight.shape[0] and weight.shape[2] == 1:
        return x
    return convolve(weight, x)


def add_positions(x, padding):
    """sqrt(d) * x + position, which is t + 1 (t from 0), and no position vector at all for a padded step."""
    out = np.zeros_like(x)
    for t in range(len(x)):
        out[t] = math.sqrt(x.shape[1]) * x[t]
        if not padding[t]:
            out[t] += position_vector(t + 1, x.shape[1])
    return out


# ---- modality reinforcement: the crossmodal unit with its dynamic filter ---------------------------------------------


def dynamic_filter(p, name, self_branch, cross_branch, learned=True, record=None):
    """G = sigmoid(self W_self + cross W_cross + b); mixed = G * self + (1 - G) * cross. Not learned: G = 1/2."""
    gate = np.full_like(self_branch, 0.5)
    if learned:
        for t in range(len(gate)):
            logits = p[f"{name}.w_self.weight"] @ self_branch[t] + linear(p, f"{name}.w_cross", cross_branch[t])
            gate[t] = 1.0 / (1.0 + np.exp(-logits))
    if record is not None:
        record["gates"][name] = gate
    return gate * self_branch + (1.0 - gate) * cross_branch


def reinforcement_unit(p, name, source, target, heads, source_hidden=None, target_hidden=None, learned_filter=True,
                       residual=True, record=None, lengths=None, window=math.inf):
    """MRU_{s->t}(Z_s, Z_t): CA and SA over the same layer norm, the dynamic filter, the residual, the FFN.

    `lengths` are those of the target's segments and of the source's, for the causal mask.
    """
    own_lengths = None if lengths is None else (lengths[0], lengths[0])
    normed_source = layer_norm(p, f"{name}.layer_norm", source)
    normed_target = layer_norm(p, f"{name}.layer_norm", target)
    cross = attention(p, f"{name}.cross_attn", normed_target, normed_source, heads, source_hidden, lengths)
    own = attention(p, f"{name}.self_attn", normed_target, normed_target, heads, target_hidden, own_lengths, window)
    mixed = dynamic_filter(p, f"{name}.filter", own, cross, learned_filter, record)
    if residual:
        mixed = target + mixed
    return feed_forward(p, f"{name}.ffn", f"{name}.ffn.layer_norm", mixed)


def token_hub(p, name, streams, heads, hidden=None):
    """Z_C = Q + CA(Q, LN[Z_L, Z_V, Z_A])"""
    queries = p[f"{name}.queries"]
    normed = layer_norm(p, f"{name}.layer_norm", streams)
    return queries + attention(p, f"{name}.cross_attn", queries, normed, heads, hidden)


def hub_lengths(Z, tokens=False):
    """The lengths of the hub's segments; a hub of tokens is one without end in time."""
    return [math.inf] if tokens else [len(Z[m]) for m in HUB_ORDER if m in Z]


# ---- message update --------------------------------------------------------------------------------------------------


def message_matrix_times(p, name, Z, form):
    """W_m z_m for z_m the flattened (T_C, d) message; lowrank: row i of W_m is sum_r time[i, r] (x) feature[i, r]."""
    flat = Z.reshape(-1)
    if form == "full":
        return p[f"{name}.weight"] @ flat
    time, feature = p[f"{name}.time"], p[f"{name}.feature"]
    out = np.zeros(len(time))
    for i in range(len(time)):
        row = sum(np.outer(time[i, r], feature[i, r]) for r in range(time.shape[1])).reshape(-1)
        out[i] = row @ flat
    return out


def message_update(p, name, Z, Z_C, heads, hidden=None, hub_hidden=None, learned_filter=True, residual=True,
                   update="attention", form="lowrank", record=None, causal=False, tokens=False):
    """MUM: Z_{m->C} = MRU(Z_m, Z_C); mu_m = U^T tanh(W_m z_m + b_m); alpha = softmax mu; FFN(sum alpha_m Z_{m->C})."""
    names = [m for m in OUTPUT_ORDER if m in Z]
    hidden = hidden or dict.fromkeys(names)
    messages = {
        m: reinforcement_unit(p, f"{name}.reinforce.{m}", Z[m], Z_C, heads, hidden[m], hub_hidden, learned_filter,
                              residual, record, (hub_lengths(Z, tokens), [len(Z[m])]) if causal else None)
        for m in names
    }
    if update == "attention" and len(names) > 1:
        scores = []
        for m in names:
            seen = messages[m].copy()
            for t in range(len(seen)):
                if hub_hidden is not None and hub_hidden[t]:
                    seen[t] = 0  # a step that no attention sees has no say in the weights either
            inner = message_matrix_times(p, f"{name}.weights.{m}", seen, form) + p[f"{name}.weights.{m}.bias"]
            scores.append(float(p[f"{name}.score.weight"][0] @ np.tanh(inner)))
        alpha = softmax(scores)
    else:
        alpha = np.full(len(names), 1.0 / len(names))
    if record is not None:
        record["alphas"][name] = alpha
    fused = sum(alpha[i] * messages[m] for i, m in enumerate(names))
    return feed_forward(p, f"{name}.ffn", f"{name}.ffn.layer_norm", fused)


def reinforcement_layer(p, name, Z, Z_C, heads, hidden=None, hub_hidden=None, learned_filter=True, residual=True,
                        update="attention", form="lowrank", record=None, causal=False, tokens=False,
                        window=math.inf):
    """Z_m[i+1] = MRU_{C->m}(Z_C[i], Z_m[i]), then Z_C[i+1] = MUM(Z[i+1], Z_C[i]); update "none" leaves Z_C alone."""
    hidden = hidden or dict.fromkeys(Z)
    new_Z = {
        m: reinforcement_unit(p, f"{name}.reinforce.{m}", Z_C, Z[m], heads, hub_hidden, hidden[m], learned_filter,
                              residual, record, ([len(Z[m])], hub_lengths(Z, tokens)) if causal else None, window)
        for m in Z
    }
    if update == "none":
        return new_Z, Z_C
    return new_Z, message_update(p, f"{name}.update", new_Z, Z_C, heads, hidden, hub_hidden, learned_filter, residual,
                                 update, form, record, causal, tokens)


# ---- the whole model -------------------------------------------------------------------------------------------------


def readout_encoder(p, name, sequence, heads, layers, hidden=None, lengths=None):
    """Pre-norm transformer encoder: sqrt(d) x + position (nothing is padding), self-attention and FFN, a last LN."""
    x = add_positions(sequence, [False] * len(sequence))
    for i in range(layers):
        layer = f"{name}.layers.{i}"
        normed = layer_norm(p, f"{layer}.layer_norms.0", x)
        x = x + attention(p, f"{layer}.self_attn", normed, normed, heads, hidden, lengths)
        x = feed_forward(p, layer, f"{layer}.layer_norms.1", x)
    return layer_norm(p, f"{name}.layer_norm", x)


def pool_segment(segment, padding, pool, mask_padding):
    """The last step, or the mean of the real steps. None real: the last one where padding is hidden, else all."""
    if pool == "last":
        return segment[-1]
    real = [step for step, padded in zip(segment, padding, strict=True) if not padded]
    real = real or list(segment[-1:] if mask_padding else segment)
    return sum(real) / len(real)


def pmr(p, inputs, heads, layers, modalities="lav", padding=None, readout_layers=1, pool="last", mask_padding=False,
        dynamic_filter=True, residual=True, message_update="attention", message_form="lowrank", record=None,
        attn_mask=True, readout_norm=False, hub_tokens=0, self_window=0):
    """PMR for one sample; inputs maps each modality to (T_m, d_m), padding to T_m booleans (by default, the all-zero
    steps). Returns (prediction, hidden state)."""
    order = [m for m in HUB_ORDER if m in modalities]
    padding = padding or {m: find_padding(inputs[m]) for m in order}
    Z = {m: add_positions(project(p, f"proj_{m}", inputs[m]), padding[m]) for m in order}
    Z_C = np.concatenate([Z[m] for m in order])
    hub_padding = [padded for m in order for padded in padding[m]]
    hidden = {m: padding[m] if mask_padding else None for m in order}
    hub_hidden = hub_padding if mask_padding else None
    if hub_tokens:
        Z_C, hub_hidden = token_hub(p, "hub", Z_C, heads, hub_hidden), None
    for i in range(layers):
        Z, Z_C = reinforcement_layer(p, f"layers.{i}", Z, Z_C, heads, hidden, hub_hidden, dynamic_filter, residual,
                                     message_update, message_form, record, attn_mask, hub_tokens > 0,
                                     self_window or math.inf)
    if hub_tokens:
        pooled = read_beside_tokens(p, Z, Z_C, heads, padding, pool, mask_padding, readout_layers, readout_norm)
    else:
        pooled = read_segments(p, Z, Z_C, heads, padding, pool, mask_padding, readout_layers, readout_norm, attn_mask)
    state = np.concatenate([pooled[m] for m in OUTPUT_ORDER if m in modalities])
    inner = linear(p, "proj2", np.maximum(linear(p, "proj1", state), 0.0)) + state
    return linear(p, "out_layer", inner), state


def read_segments(p, Z, Z_C, heads, padding, pool, mask_padding, readout_layers, readout_norm, attn_mask):
    """By modality, what is read of its segment in the encoded [Z_C, Z_L, Z_V, Z_A]."""
    order = [m for m in HUB_ORDER if m in Z]
    hub_padding = [padded for m in order for padded in padding[m]]
    whole = np.concatenate([Z_C] + [Z[m] for m in order])
    if readout_norm:
        whole = layer_norm(p, "readout_norm", whole)
    lengths = (2 * hub_lengths(Z), 2 * hub_lengths(Z)) if attn_mask else None  # C_L, C_V, C_A, L, V, A
    whole = readout_encoder(p, "readout", whole, heads, readout_layers, 2 * hub_padding if mask_padding else None,
                            lengths)
    pooled, start = {}, len(Z_C)
    for m in order:
        pooled[m] = pool_segment(whole[start:start + len(Z[m])], padding[m], pool, mask_padding)
        start += len(Z[m])
    return pooled


def read_beside_tokens(p, Z, Z_C, heads, padding, pool, mask_padding, readout_layers, readout_norm):
    """By modality, the step read of the encoded [Z_C, a step of each modality]; a hidden one is not seen."""
    order = [m for m in OUTPUT_ORDER if m in Z]
    steps = [pool_segment(Z[m], padding[m], pool, mask_padding) for m in order]
    hidden = [padding[m][-1] if pool == "last" else all(padding[m]) for m in order]
    whole = np.concatenate([Z_C, steps])
    if readout_norm:
        whole = layer_norm(p, "readout_norm", whole)
    hidden = [False] * len(Z_C) + hidden if mask_padding else None
    whole = readout_encoder(p, "readout", whole, heads, readout_layers, hidden)
    return dict(zip(order, whole[len(Z_C):], strict=True))
