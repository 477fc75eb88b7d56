"""Makes the peers' environments: one each, because their requirements do not go together.

    python -m benchmarks.peers.environments [FOLDER] [--only NAME ...]

torch is installed first and by its exact version, so that all measure the same build of it.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import venv
from pathlib import Path

TORCH = "torch==2.13.0"
PACKAGES = {
    "saelens": ("sae-lens==6.54.12", "transformers==5.23.0", "transformer-lens==3.9.0", "safetensors==0.8.0"),
    "sparsify": ("eai-sparsify==1.3.3", "transformers==5.23.0", "schedulefree==1.4.1", "safetensors==0.8.0"),
    "dictionary_learning": ("dictionary-learning==0.1.0", "transformers==5.23.0", "safetensors==0.8.0"),
    "delphi": (
        *("transformers==5.23.0", "safetensors==0.8.0", "eai-sparsify==1.3.3", "schedulefree==1.4.1"),
        *("asyncer==0.0.18", "blobfile==3.3.0", "faiss-cpu==1.15.1", "jaxtyping==0.3.11", "orjson==3.13.0"),
        *("sentence-transformers==6.2.0", "simple-parsing==0.1.9", "datasets==5.2.0"),
    ),
    "saedashboard": ("sae-dashboard==0.8.0", "sae-lens==6.54.12", "transformer-lens==2.17.0", "pyarrow==21.0.0"),
}
WITHOUT_REQUIREMENTS = {"delphi": ("eai-delphi==0.1.3",)}
"""Whose own requirements (an engine for GPUs) are not wanted: what its loader imports stands above."""
_UNUSED = ("torchvision", "torchaudio", "torchcodec")
"""Pulled in by requirements of requirements; beside a torch of another build they break transformers."""
_DONE = ".installed"


def make(folder: Path, name: str) -> None:
    """One environment; does nothing where it is complete."""
    target = folder / name
    bare = WITHOUT_REQUIREMENTS.get(name, ())
    wanted = "\n".join((TORCH, *PACKAGES[name], *bare))
    if (target / _DONE).exists() and (target / _DONE).read_text() == wanted:
        return
    print(f"making {target}; this takes a few minutes", flush=True)
    venv.create(target, with_pip=True, clear=True)
    pip = [str(target / "bin" / "python"), "-m", "pip", "--disable-pip-version-check", "--quiet"]
    subprocess.run([*pip, "install", TORCH], check=True)
    subprocess.run([*pip, "install", TORCH, *PACKAGES[name]], check=True)
    if bare:
        subprocess.run([*pip, "install", "--no-deps", *bare], check=True)
    subprocess.run([*pip, "uninstall", "--yes", *_UNUSED], check=True)
    (target / _DONE).write_text(wanted)


def main() -> int:
    """Makes those that are asked for."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path, nargs="?", default=Path(".peers"))
    parser.add_argument("--only", nargs="+", choices=sorted(PACKAGES), default=sorted(PACKAGES))
    given = parser.parse_args()
    given.folder.mkdir(parents=True, exist_ok=True)
    for name in given.only:
        make(given.folder, name)
    return 0


if __name__ == "__main__":
    sys.exit(main())
