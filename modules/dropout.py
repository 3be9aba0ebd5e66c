"""Dropout by itself, of a relu, and added to a residual stream: one pass each where a CPU kernel can do it."""

from torch import nn

from modules.cpu_kernels import add_dropout, dropout, relu_dropout, usable


class Dropout(nn.Dropout):
    """nn.Dropout, which can be fused with a relu before it or with a residual sum after it."""

    def forward(self, x):
        """Dropout(x), any shape."""
        return dropout(x, self.p) if self._by_kernel(x) else super().forward(x)

    def of_relu(self, x):
        """Dropout(relu(x)), any shape."""
        return relu_dropout(x, self.p) if self._by_kernel(x) else super().forward(x.relu())

    def added_to(self, x, branch):
        """x + Dropout(branch), both of one shape."""
        return add_dropout(x, branch, self.p) if self._by_kernel(branch) else x + super().forward(branch)

    def _by_kernel(self, x):
        return self.training and self.p > 0 and usable(x)
