"""The transformer encoder of MulT: crossmodal when given a source, self-attending when not.

How it differs from torch.nn.TransformerEncoder:
    * pre-norm, and one layer norm serves both target and source (MulT, equation 5);
    * keys and values are the same source, but each is embedded with a dropout of its own;
    * the source stays what it was before the first layer, unless the layers transform it (MulT-FFL);
    * positions are added inside, and the output is normalised.
Parameter names are the original MulT's.
"""

from torch import nn

from modules.dropout import Dropout
from modules.multihead_attention import MultiheadAttention, attention_mask
from modules.position_embedding import PositionEmbedding
from modules.side_by_side import LayerNorm, Linear


def xavier_linear(in_features, out_features):
    """A linear layer with xavier-uniform weights and no initial bias."""
    linear = Linear(in_features, out_features)
    nn.init.xavier_uniform_(linear.weight)
    nn.init.zeros_(linear.bias)
    return linear


def feed_forward(x, layer_norm, fc1, fc2, relu_dropout, res_dropout):
    """The pre-norm position-wise feed-forward block with its residual, (B, T, d) -> (B, T, d)."""
    return res_dropout.added_to(x, fc2(relu_dropout.of_relu(fc1(layer_norm(x)))))


class FeedForward(nn.Module):
    """`feed_forward` as a module of its own, with an inner width of 4d."""

    def __init__(self, embed_dim, relu_dropout=0.0, res_dropout=0.0):
        super().__init__()
        self.layer_norm = LayerNorm(embed_dim)
        self.fc1 = xavier_linear(embed_dim, 4 * embed_dim)
        self.fc2 = xavier_linear(4 * embed_dim, embed_dim)
        self.relu_dropout = Dropout(relu_dropout)
        self.res_dropout = Dropout(res_dropout)

    def forward(self, x):
        """(B, T, d) -> (B, T, d)"""
        return feed_forward(x, self.layer_norm, self.fc1, self.fc2, self.relu_dropout, self.res_dropout)


class TransformerEncoderLayer(nn.Module):
    """Attention and feed-forward, each pre-norm and residual (MulT, equation 5)."""

    def __init__(self, embed_dim, num_heads, attn_dropout=0.0, relu_dropout=0.0, res_dropout=0.0):
        super().__init__()
        self.self_attn = MultiheadAttention(embed_dim, num_heads, attn_dropout)
        self.fc1 = xavier_linear(embed_dim, 4 * embed_dim)
        self.fc2 = xavier_linear(4 * embed_dim, embed_dim)
        self.layer_norms = nn.ModuleList(LayerNorm(embed_dim) for _ in range(2))
        self.relu_dropout = Dropout(relu_dropout)
        self.res_dropout = Dropout(res_dropout)

    def forward(self, x, key=None, value=None, allowed=None):
        """x (B, T_t, d) attends to key and value (B, T_s, d), or to itself without them -> (B, T_t, d)."""
        attention_norm, ffn_norm = self.layer_norms
        query = attention_norm(x)
        if key is None:
            key = value = query
        elif key is value:
            key = value = attention_norm(key)
        else:
            key, value = attention_norm(key), attention_norm(value)
        attended = self.self_attn(query, key, value, allowed)
        x = self.res_dropout.added_to(x, attended)
        return feed_forward(x, ffn_norm, self.fc1, self.fc2, self.relu_dropout, self.res_dropout)


class TransformerEncoder(nn.Module):
    """D layers over an embedded sequence, then a layer norm.

    `attn_mask` switches MulT's causal mask on. With `source_feed_forward`, each layer first passes the source
    through a feed-forward block of its own, so that layer i attends to source_{i+1} = source_i + FFN_i(LN(source_i)).
    """

    def __init__(self, embed_dim, num_heads, layers, attn_dropout=0.0, relu_dropout=0.0, res_dropout=0.0,
                 embed_dropout=0.0, attn_mask=False, source_feed_forward=False):
        super().__init__()
        self.attn_mask = attn_mask
        self.variant = attn_dropout
        self.embed = PositionEmbedding(embed_dim, embed_dropout)
        self.layers = nn.ModuleList(
            TransformerEncoderLayer(embed_dim, num_heads, attn_dropout, relu_dropout, res_dropout)
            for _ in range(layers)
        )
        self.source_layers = nn.ModuleList(
            FeedForward(embed_dim, relu_dropout, res_dropout) if source_feed_forward else nn.Identity()
            for _ in range(layers)
        )
        self.layer_norm = LayerNorm(embed_dim)

    def forward(self, x, source=None, padding=None, source_padding=None, hidden_padding=None, steps=None, kept=None,
                source_kept=None):
        """Encode x (B, T_t, d), attending to source (B, T_s, d), or to itself where there is none -> (B, T_t, d).

        `padding` (B, T_t) and `source_padding` (B, T_s) mark the steps without a position. `hidden_padding` (B, T_s)
        marks the steps that are not attended to: none by default, as in the original. `steps` are those that are
        wanted of the result, all by default: the last layer then computes no others. `kept` and `source_kept` are
        what x and source are of the sequences they were cut from (modules/trimming.py).
        """
        source_len, source_kept = (x.size(-2), kept) if source is None else (source.size(-2), source_kept)
        allowed = attention_mask(
            x.size(-2), source_len, causal=self.attn_mask, source_padding=hidden_padding, kept=kept,
            source_kept=source_kept, device=x.device,
        )
        x = self.embed(x, padding, kept)
        key = value = None
        if source is not None:
            key, value = (self.embed(source, source_padding, source_kept) for _ in range(2))
        for i, (layer, source_layer) in enumerate(zip(self.layers, self.source_layers, strict=True)):
            if source is not None:
                key, value = source_layer(key), source_layer(value)
            if steps is not None and i == len(self.layers) - 1:
                key, value = (x, x) if source is None else (key, value)
                x, allowed = x[..., steps, :], None if allowed is None else allowed[..., steps, :]
            x = layer(x, key, value, allowed)
        return self.layer_norm(x)
