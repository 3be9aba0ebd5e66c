"""Dropout by itself, of a relu, and added to a residual stream: one pass each where cpu_kernels can do it."""

from torch import nn

from modules import cpu_kernels


class Dropout(nn.Dropout):
    """nn.Dropout, which can be fused with a relu before it or with a residual sum after it."""

    def forward(self, x):
        """Dropout(x), any shape."""
        return cpu_kernels.dropout(x, self.p) if self._by_kernel(x) else super().forward(x)

    def of_relu(self, x):
        """Dropout(relu(x)), any shape."""
        return cpu_kernels.relu_dropout(x, self.p) if self._by_kernel(x) else super().forward(x.relu())

    def added_to(self, x, branch):
        """x + Dropout(branch), both of one shape."""
        return cpu_kernels.add_dropout(x, branch, self.p) if self._by_kernel(branch) else x + super().forward(branch)

    def _by_kernel(self, x):
        return self.training and self.p > 0 and cpu_kernels.usable(x)
