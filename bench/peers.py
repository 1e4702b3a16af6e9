"""Install the peers that the benches meet and that are no dependency: `python bench/peers.py`.

git-theta from PyPI, in an environment of its own below `.bench/`: its dependencies are not ours.
"""

import subprocess
import sys
from pathlib import Path

THETA = Path(__file__).parents[1] / ".bench" / "git-theta"


def main() -> None:
    """Takes a few minutes: git-theta brings torch along."""
    subprocess.run([sys.executable, "-m", "venv", str(THETA)], check=True)
    (THETA.parent / ".gitignore").write_text("*\n")
    words = ("install", "--quiet", "git-theta==0.2.0", "safetensors")
    subprocess.run([str(THETA / "bin" / "pip"), *words], check=True)


if __name__ == "__main__":
    main()
