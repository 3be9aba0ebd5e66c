"""Fetch a file out of a public Google Drive folder, through gdown."""

from src.data.http_file import TIMEOUT
from src.data.progress import progress_bar
from src.data.sources import SourceError
from src.errors import printable

RETRIES = 5


def fetch_from_folder(folder_id, name, path):
    """Download the file of that name to `path`, going on with what an earlier call left there; or SourceError."""
    try:
        import gdown  # noqa: PLC0415  (slow to import, and rarely needed)
    except ImportError as error:
        raise SourceError("gdown is not installed; python -m pip install gdown") from error
    common = {"quiet": True, "use_cookies": False, "timeout": TIMEOUT}
    try:
        listed = gdown.download_folder(id=folder_id, skip_download=True, **common)
        ids = [file.id for file in listed if file.path == name]
        if not ids:
            raise SourceError(f"the folder has no {name}")
        with progress_bar(name, None) as bar:
            gdown.download(id=ids[0], output=str(path), resume=True, retries=RETRIES,
                           progress=lambda done, total: show(bar, done, total), **common)
    except SourceError:
        raise
    except Exception as error:  # gdown lets through whatever its parsing of Drive's pages and the network raise
        raise SourceError(reason(error)) from error


def show(bar, done, total):
    """Set a progress bar to so many bytes of so many."""
    bar.total = total
    bar.update(done - bar.n)


def reason(error):
    """An exception of gdown as part of one line."""
    kind = type(error).__name__
    if kind in ("ConnectionError", "ConnectTimeout", "ReadTimeout", "ProxyError", "SSLError"):  # those of requests
        return f"Google Drive cannot be reached ({kind})"
    text = printable(" ".join(str(error).split()))
    return f"gdown: {text if kind in ('DownloadError', 'FileURLRetrievalError') else f'{kind}: {text}'}"
