"""`python -m devstack.diagrams`: puts Mermaid beside the documents, so that the site draws its diagrams by itself.

Without it the site's theme would load Mermaid from another server. Downloaded once per user (16 MB) and checked, as
the parts of the stack are; docs/assets/diagrams.js loads it on pages with a diagram alone.
"""

import zipfile
from pathlib import Path

from devstack.artifacts import Artifact, fetch

MERMAID = Artifact(
    "org.webjars.npm:mermaid:jar:11.14.0",
    sha256="fcc17f377c0f657513a66735d41a3095cad37e8059d80e2d80d39f91458cfbed",
    size_bytes=16_257_239,
)
PLACE = Path(__file__).parents[1] / "docs" / "assets"
_MEMBER = "META-INF/resources/webjars/mermaid/11.14.0/dist/mermaid.min.js"


def mermaid_into(folder: Path) -> None:
    """Writes mermaid.min.js there. Raises UnavailableError when the download fails."""
    (archive,) = fetch((MERMAID,), lambda _: None)
    with zipfile.ZipFile(archive) as opened:
        (folder / "mermaid.min.js").write_bytes(opened.read(_MEMBER))


if __name__ == "__main__":
    mermaid_into(PLACE)
