"""The public face: the version, and `trs.lake` for notebooks."""

import importlib.util
from pathlib import Path

__version__ = "0.1.0"


def _refuse_strangers() -> None:
    """Raise ImportError where a folder of the working directory stands before one of our packages.

    Their names are common ones: Python takes a folder `app` beside a notebook for ours.
    """
    home = Path(__file__).resolve().parents[1]
    for name in ("app", "batch_bootstrap", "connectors", "processors"):
        spec = importlib.util.find_spec(name)
        places = () if spec is None else spec.submodule_search_locations or (spec.origin or "",)
        stranger = next((p for p in places if Path(p).resolve() != home / name), None)
        if spec is None or stranger is not None:
            found = "is missing" if spec is None else f"is taken from {stranger}"
            raise ImportError(
                f"trs-stream's package {name} {found}, and belongs to {home}. Start Python in another folder, or with "
                "PYTHONSAFEPATH=1; if it is missing, install trs-stream again."
            )


_refuse_strangers()
