"""The small layers that every block is built from, computed by the CPU kernels where these can be used."""

from torch import Tensor, nn

from modules import kernels


class Dropout(nn.Dropout):
    """nn.Dropout, also fused with a relu before it or with a residual sum after it."""

    @property
    def rate(self) -> float:
        """The probability to drop: 0 in evaluation."""
        return self.p if self.training else 0.0

    def forward(self, x: Tensor) -> Tensor:
        """Dropout(x), any shape."""
        return kernels.dropout(x, self.rate)

    def of_relu(self, x: Tensor) -> Tensor:
        """Dropout(relu(x)), any shape."""
        return kernels.relu_dropout(x, self.rate)

    def added_to(self, x: Tensor, branch: Tensor) -> Tensor:
        """x + Dropout(branch), both of one shape."""
        return kernels.add_dropout(x, branch, self.rate)


class LayerNorm(nn.LayerNorm):
    """nn.LayerNorm."""

    def forward(self, x: Tensor) -> Tensor:
        """(..., d) -> (..., d)"""
        return kernels.layer_norm(x, self.weight, self.bias, self.eps)


def xavier_linear(in_features: int, out_features: int) -> nn.Linear:
    """A linear layer with xavier-uniform weights and no initial bias."""
    linear = nn.Linear(in_features, out_features)
    nn.init.xavier_uniform_(linear.weight)
    nn.init.zeros_(linear.bias)
    return linear


def feed_forward(x: Tensor, layer_norm: nn.Module, fc1: nn.Linear, fc2: nn.Linear, relu_dropout: Dropout,
                 res_dropout: Dropout) -> Tensor:
    """x + Dropout(W_2 Dropout(relu(W_1 LN(x) + b_1)) + b_2): pre-norm, position-wise, (B, T, d) -> (B, T, d)."""
    return res_dropout.added_to(x, fc2(relu_dropout.of_relu(fc1(layer_norm(x)))))


class FeedForward(nn.Module):
    """`feed_forward` as a module of its own, with an inner width of 4d."""

    def __init__(self, embed_dim: int, relu_dropout: float = 0.0, res_dropout: float = 0.0) -> None:
        super().__init__()
        self.layer_norm = LayerNorm(embed_dim)
        self.fc1 = xavier_linear(embed_dim, 4 * embed_dim)
        self.fc2 = xavier_linear(4 * embed_dim, embed_dim)
        self.relu_dropout = Dropout(relu_dropout)
        self.res_dropout = Dropout(res_dropout)

    def forward(self, x: Tensor) -> Tensor:
        """(B, T, d) -> (B, T, d)"""
        return feed_forward(x, self.layer_norm, self.fc1, self.fc2, self.relu_dropout, self.res_dropout)
