"""inspect --verify: every stored file that is not what was written is named."""

import os
from pathlib import Path

import pytest

from main import main as train
from src.presets import write_preset
from src.tools.inspect_file import main
from tests.data_files import give_data

RUN = Path("results/mine/unaligned/Linear/seed1111")
CACHE = Path("data/mine_data_noalign.pkl.cache")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder with a data file, its cache, a finished run and a preset."""
    path = tmp_path_factory.mktemp("verify")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(path)
        give_data(path)
        assert train(["--dataset", "mine", "--device", "cpu", "--model", "Linear", "--batch_size", "5"]) == 0
        assert train(["--dataset", "mine", "--device", "cpu", "--model", "MulT", "--embed_dim", "4", "--num_heads", "2",
                      "--nlevels", "1", "--num_epochs", "1", "--batch_size", "5"]) == 0
        write_preset(path / "results/preset.json", {
            "model": "MulT", "dataset": "mine", "aligned": False, "settings": {"lr": 0.1},
            "found_by": {"seeds": [1], "seconds": 1.0, "trials": {"complete": 1, "pruned": 0, "failed": 0}}})
        yield path


def verified(capsys, path):
    """The exit code of inspect --verify, its lines, and the line of its error."""
    capsys.readouterr()
    code = main([str(path), "--verify"])
    printed = capsys.readouterr()
    return code, printed.out.splitlines(), printed.err


def test_what_was_written_is_whole(folder, capsys):
    code, lines, error = verified(capsys, "results")
    assert (code, error) == (0, "")
    other = str(RUN).replace("Linear", "MulT")
    assert lines == [f"{name} is whole" for name in (RUN, other, "results/preset.json")]
    assert verified(capsys, CACHE.with_suffix("")) == (0, [f"{folder / CACHE} is whole"], "")


@pytest.mark.parametrize("path", [
    *(RUN / name for name in ("config.json", "metrics.jsonl", "checkpoint.pt", "predictions.npz", "result.json")),
    "results/mine/unaligned/MulT/seed1111/decisions.npz", "results/preset.json",
    *(CACHE / "arrays" / name for name in ("train_audio.npy", "test_text.npy", "labels_and_padding.npz",
                                           "manifest.json")),
])
def test_a_flipped_byte_is_named(folder, capsys, path):
    path = Path(path)
    manifest = (CACHE / "arrays/manifest.json").read_bytes()  # which goes where a sample is found damaged
    content = path.read_bytes()
    place = len(content) * 2 // 3
    path.write_bytes(content[:place] + bytes([content[place] ^ 1]) + content[place + 1:])
    try:
        code, lines, error = verified(capsys, CACHE.with_suffix("") if CACHE in path.parents else "results")
        assert code == 2
        (line,) = [line for line in lines if not line.endswith("is whole")]
        assert str(path.parent).removesuffix("/arrays") in line
        assert error.startswith(f"error: 1 of {len(lines)} damaged in ")
    finally:
        (CACHE / "arrays/manifest.json").write_bytes(manifest)
        path.write_bytes(content)


def test_a_file_of_other_content_than_its_cache_is_named(folder, capsys):
    file = CACHE.with_suffix("")
    content, times = file.read_bytes(), file.stat()
    file.write_bytes(content[:-9] + bytes([content[-9] ^ 1]) + content[-8:])
    os.utime(file, ns=(times.st_atime_ns, times.st_mtime_ns))
    code, lines, _ = verified(capsys, file)
    file.write_bytes(content)
    os.utime(file, ns=(times.st_atime_ns, times.st_mtime_ns))
    assert code == 2
    assert "or not of what" in lines[0]


@pytest.mark.parametrize("path", ["nothing", "data"])
def test_nothing_to_verify_is_one_line(folder, capsys, path):
    code, lines, error = verified(capsys, path)
    assert (code, lines) == (2, [])
    assert "has nothing to verify" in error
