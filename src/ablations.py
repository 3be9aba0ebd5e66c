"""PMR's ablations: what each is called, and the flags that make it."""

ABLATIONS = {
    "mean_update": ("message update by averaging", ("--message_update", "mean")),
    "no_update": ("messages of low-level features only", ("--message_update", "none")),
    "no_filter": ("no dynamic filter, G = 1/2", ("--no_dynamic_filter",)),
    "only_l": ("language only", ("--modalities", "l")),
    "only_a": ("audio only", ("--modalities", "a")),
    "only_v": ("vision only", ("--modalities", "v")),
    "only_la": ("language and audio", ("--modalities", "la")),
    "only_lv": ("language and vision", ("--modalities", "lv")),
    "only_av": ("audio and vision", ("--modalities", "av")),
}
