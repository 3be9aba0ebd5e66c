"""PMR for the flags of MulT's main.py: --model PMR."""

from argparse import Namespace

from src.models import PMR


class PMRModel(PMR):
    """PMR with MulT's width, 30, and the defaults of its own options."""

    def __init__(self, hyp_params: Namespace) -> None:
        if not (hyp_params.lonly and hyp_params.aonly and hyp_params.vonly):
            raise ValueError("PMR does not know --lonly, --aonly and --vonly")
        names = ("attn_dropout", "attn_dropout_a", "attn_dropout_v", "relu_dropout", "embed_dropout", "res_dropout",
                 "out_dropout")
        super().__init__(
            input_dims=(hyp_params.orig_d_l, hyp_params.orig_d_a, hyp_params.orig_d_v),
            input_lens=(hyp_params.l_len, hyp_params.a_len, hyp_params.v_len),
            output_dim=hyp_params.output_dim, embed_dim=30, num_heads=hyp_params.num_heads, layers=hyp_params.layers,
            **{name: getattr(hyp_params, name) for name in names},
        )
