"""The store at full size: many contributors to one repository, and processes killed at random moments.

These are the tests in `tests/store/test_store_endurance.py`, small in the suite, here with 50 contributors
who push 20 times each, and 204 kills. `WEFT_STORE_CONTRIBUTORS`, `_PUSHES`, `_KILLS` and `_SEED` change that.
Half an hour on two quiet cores.
"""

import os
import subprocess
import sys
import tempfile
from pathlib import Path
from xml.etree import ElementTree

SIZES = {
    "WEFT_STORE_CONTRIBUTORS": "50",
    "WEFT_STORE_PUSHES": "20",
    "WEFT_STORE_KILLS": "204",
    "WEFT_STORE_SEED": "0",
}


def run() -> list[dict[str, object]]:
    """One row for each test: what it did, how often, and whether all was well."""
    sizes = {name: os.environ.get(name, usual) for name, usual in SIZES.items()}
    checkout = Path(__file__).parents[1]
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.xml"
        words = ["-p", "no:cacheprovider", "-o", "junit_family=xunit1", f"--junitxml={report}"]
        subprocess.run(
            [sys.executable, "-m", "pytest", "-q", *words, "tests/store/test_store_endurance.py"],
            cwd=checkout,
            env=os.environ | sizes,
            check=False,  # what fails is a row
        )
        return rows_of(report, sizes["WEFT_STORE_SEED"])


def rows_of(report: Path, seed: str) -> list[dict[str, object]]:
    """The rows of a JUnit report."""
    git = subprocess.run(["git", "version"], capture_output=True, text=True, check=True).stdout.split()[2]
    rows = []
    for case in ElementTree.parse(report).iter("testcase"):
        told = {found.get("name", ""): found.get("value", "") for found in case.iter("property")}
        bad = next((found for kind in ("failure", "error") for found in case.iter(kind)), None)
        rows.append(
            {
                "what": told.get("what", case.get("name")),
                "times": told.get("done"),
                "came too late and caught up": told.get("came too late and caught up"),
                "outcome": "all is well" if bad is None else (bad.get("message") or "").splitlines()[0],
                "seconds": round(float(case.get("time", 0))),
                "seed": seed,
                "git": git,
            }
        )
    return rows
