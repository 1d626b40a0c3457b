"""Where downloads are kept between runs."""

import os
from pathlib import Path


def cache_dir() -> Path:
    """This project's folder in the user's cache directory; it is made when missing and may be deleted at any time."""
    path = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "lrurec-stream"
    path.mkdir(parents=True, exist_ok=True)
    return path
