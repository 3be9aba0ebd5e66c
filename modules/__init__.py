"""Blocks that PMR, MulT and MulT-FFL are built from. They know no flags and no data set.

Shape letters, the same in every file:

    B  samples in a batch        d  model width               T    time steps of a sequence
    M  modalities                d_m  features of modality m  T_t  steps of an attention's target (queries)
    D  layers                    h  attention heads           T_s  steps of its source (keys and values)
    k  width of a message score  r  rank of its weights       T_C  steps of the message hub, the sum of all T_m

Tensors are batch first: (B, T, d). A padding mask is (B, T) bool, True where a step is padding.
"""
