"""What each patch inserts into a stock MulT and adds to it. Lines are counted in the stock file, before any patch."""

from dataclasses import dataclass

COMMIT = "a670936824ee722c8494fd98d204977a1d663c7a"
BLOBS = {  # git's hash of each file that a patch changes
    "main.py": "0c968d788ec5219da6d29b9500af5dd7d4717200",
    "modules/position_embedding.py": "7060ad238a7b96fdbbd393050f8e29c9b082174a",
    "src/dataset.py": "d3b0288ff6c96824374c7cf93dfb2241d27f215f",
    "src/models.py": "b8d1280e0d23d488ea32209a5ffc2a093a922321",
    "src/train.py": "43b4739f99142e63277067f1e482a15e12241a7f",
    "src/utils.py": "aa1c5cbe60ed65c8fb21549cc301a8d007cbd63b",
}
FILES = {  # of the stock tree, beside which a file of ours needs another name
    *BLOBS, "modules/multihead_attention.py", "modules/transformer.py", "src/ctc.py", "src/eval_metrics.py",
}


@dataclass(frozen=True)
class Patch:
    """`insertions` are {file: {line: text to insert after it}}; `added` are files of patches/added, for src/."""

    name: str
    purpose: str
    added: tuple
    insertions: dict


SERIES = (
    Patch(
        "0001-run-on-current-torch.patch", "Run on torch 2.6 and newer, and read data without running what is in it",
        ("today.py", "data_pickle.py"),
        {
            "main.py": {5: "from src.today import DataLoader"},
            "modules/position_embedding.py": {
                19: "    getattr(make_positions, buf_name).resize_(0)  # torch warns where it grows a buffer in use",
                75: "        positions = positions.contiguous()",
            },
            "src/dataset.py": {6: "from src import data_pickle as pickle"},
            "src/train.py": {18: "from src.today import ReduceLROnPlateau"},
            "src/utils.py": {
                2: "from src.today import of_own_files",
                5: "@of_own_files",
                29: "    os.makedirs('pre_trained_models', exist_ok=True)",
                32: "@of_own_files",
            },
        },
    ),
    Patch(
        "0002-run-from-scripts.patch", "Ask nothing, write JSON lines on request, and share weights and data order",
        ("scripted.py",),
        {
            "main.py": {
                5: "from src.scripted import add_flags, ordered",
                77: "add_flags(parser)",
                124: "train_loader = ordered(train_loader, args)",
            },
            "src/train.py": {
                18: "from src.scripted import input, of_wanted_width, save_initial, training_record, write_epoch",
                33: "    save_initial(hyp_params, model)\n"
                    "    model = of_wanted_width(hyp_params, model)",
                186: "        hyp_params.training = training_record(epoch_loss / hyp_params.n_train, optimizer)",
                246: "        write_epoch(hyp_params, epoch=epoch, **hyp_params.training, valid_loss=val_loss,\n"
                     "                    test_loss=test_loss, seconds=duration)",
            },
        },
    ),
    Patch(
        "0003-add-pmr.patch", "Add PMR: --model PMR",
        ("pmr_model.py",),
        {
            "src/models.py": {5: "from src.pmr_model import PMRModel"},
            "src/train.py": {
                43: "    elif hyp_params.model == 'PMR':  # takes unaligned sequences as they are, like MulT\n"
                    "        ctc_criterion = ctc_a2l_module = ctc_v2l_module = None\n"
                    "        ctc_a2l_optimizer = ctc_v2l_optimizer = None",
            },
        },
    ),
)
