"""The tests of what changed since main: of changed modules, and of what imports them.

Prints the test files, one a line; where nothing changed, those of `splits`, which take
some seconds. A module's tests are in the file of its name, as the tests' folders mirror
the code's.
"""

import re
import subprocess
from pathlib import Path

ROOT = Path(__file__).parents[1]
FEW = "tests/splits"


def changed() -> list[Path]:
    """Python files that differ from where this branch left main, or are new."""
    base = _git("merge-base", "HEAD", "main") or ["HEAD"]
    files = _git("diff", "--name-only", base[0])
    files += _git("ls-files", "--others", "--exclude-standard")
    return [Path(file) for file in files if file.endswith(".py")]


def tests_of(files: list[Path]) -> list[str]:
    """Test files that changed, or that name a module that changed."""
    modules = {file.stem for file in files if file.parts[0] in ("splits", "ensemble")}
    modules |= {file.stem for file in files if len(file.parts) == 1}
    named = re.compile(rf"\b({'|'.join(sorted(modules)) or '$^'})\b")
    found = []
    for path in sorted((ROOT / "tests").rglob("test_*.py")):
        name = path.relative_to(ROOT)
        mirrors = path.stem.removeprefix("test_") in modules
        imports = "\n".join(
            line for line in path.read_text("utf-8").splitlines() if "import" in line
        )
        if name in files or mirrors or named.search(imports):
            found.append(str(name))
    return found


def _git(*arguments: str) -> list[str]:
    done = subprocess.run(
        ["git", *arguments], cwd=ROOT, capture_output=True, text=True, check=False
    )
    return done.stdout.split("\n")[:-1] if done.returncode == 0 else []


if __name__ == "__main__":
    print("\n".join(tests_of(changed()) or [FEW]))
