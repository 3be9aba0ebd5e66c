"""The transformer encoder of MulT: crossmodal when given a source, self-attending when not.

How it differs from torch.nn.TransformerEncoder:
    * pre-norm, and one layer norm serves both target and source (MulT, equation 5);
    * keys and values are the same source, but each is embedded with a dropout of its own;
    * the source stays what it was before the first layer, unless the layers transform it (MulT-FFL);
    * positions are added inside, and the output is normalised.
Parameter names are the original MulT's.
"""

from torch import Tensor, nn

from modules.layers import Dropout, FeedForward, LayerNorm, feed_forward, xavier_linear
from modules.multihead_attention import MultiheadAttention
from modules.position_embedding import PositionEmbedding
from modules.record import OFF, Record
from modules.sequence import Mask, Sequence, mask


class TransformerEncoderLayer(nn.Module):
    """Attention and feed-forward, each pre-norm and residual (MulT, equation 5)."""

    def __init__(self, embed_dim: int, num_heads: int, attn_dropout: float = 0.0, relu_dropout: float = 0.0,
                 res_dropout: float = 0.0) -> None:
        super().__init__()
        self.self_attn = MultiheadAttention(embed_dim, num_heads, attn_dropout)
        self.fc1 = xavier_linear(embed_dim, 4 * embed_dim)
        self.fc2 = xavier_linear(4 * embed_dim, embed_dim)
        self.layer_norms = nn.ModuleList(LayerNorm(embed_dim) for _ in range(2))
        self.relu_dropout = Dropout(relu_dropout)
        self.res_dropout = Dropout(res_dropout)

    def forward(self, x: Tensor, key: Tensor, value: Tensor, seen: Mask | None = None, record: Record = OFF) -> Tensor:
        """x (B, T_t, d) attends to key and value (B, T_s, d), which may be x itself -> (B, T_t, d)."""
        attention_norm, ffn_norm = self.layer_norms
        query = attention_norm(x)
        normed_key = query if key is x else attention_norm(key)
        normed_value = normed_key if value is key else attention_norm(value)
        attended = self.self_attn(query, normed_key, normed_value, seen, record)
        x = self.res_dropout.added_to(x, attended)
        return feed_forward(x, ffn_norm, self.fc1, self.fc2, self.relu_dropout, self.res_dropout)


class TransformerEncoder(nn.Module):
    """D layers over an embedded sequence, then a layer norm.

    `attn_mask` switches MulT's causal mask on. With `source_feed_forward`, each layer first passes the source
    through a feed-forward block of its own, so that layer i attends to source_{i+1} = source_i + FFN_i(LN(source_i)).
    """

    def __init__(self, embed_dim: int, num_heads: int, layers: int, attn_dropout: float = 0.0,
                 relu_dropout: float = 0.0, res_dropout: float = 0.0, embed_dropout: float = 0.0,
                 attn_mask: bool = False, source_feed_forward: bool = False) -> None:
        super().__init__()
        self.attn_mask = attn_mask
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

    def forward(self, target: Sequence, source: Sequence | None = None, last_of: list[int] | None = None,
                record: Record = OFF) -> Tensor:
        """Encode a target that attends to a source, or to itself where there is none -> (B, T_t, d).

        `last_of` are the segments whose last step is wanted, (B, segments, d): the last layer computes no other steps.
        """
        x = self.embed(target)
        if source is not None:
            key, value = self.embed(source), self.embed(source)
        seen = mask(target, source or target, self.attn_mask)
        for i, (layer, source_layer) in enumerate(zip(self.layers, self.source_layers, strict=True)):
            key, value = (x, x) if source is None else (source_layer(key), source_layer(value))
            if last_of is not None and i == len(self.layers) - 1:
                wanted = target.on(x).last_steps(last_of)
                x, seen = wanted.x, mask(wanted, source or target, self.attn_mask)
            x = layer(x, key, value, seen, record.of(f"layers.{i}"))
        return self.layer_norm(x)
