"""MulT-FFL: MulT whose targets attend to feed-forward features of the source, layer by layer, not to its embedding.

The baseline that the PMR paper (Lv et al., CVPR 2021) compares message passing with: higher-level sources, but
supervised through the attention alone, and at the price of one feed-forward block per crossmodal layer.
"""

from typing import ClassVar

from baselines.mult import MulT


class MulTFFL(MulT):
    """MulT with source_{i+1} = source_i + FFN_i(LN(source_i)), to which crossmodal layer i attends."""

    source_feed_forward = True
    presets: ClassVar[dict] = {"tuned": {}}  # the protocol chose its settings as they are (docs/measured/defaults.md)
