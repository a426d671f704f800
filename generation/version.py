"""Which state of this code computes."""

import hashlib
import subprocess
from functools import cache
from pathlib import Path

CODE_ROOT = Path(__file__).resolve().parent.parent


@cache
def code_version() -> str:
    """`git describe` of this checkout when it was first asked for, -dirty- and a hash of the difference where code or
    assets differ from that commit: a report that a study has written changes no number. Outside git a hash over its
    Python files."""
    if (CODE_ROOT / ".git").exists():
        git = ["git", "-C", str(CODE_ROOT)]
        try:
            found = subprocess.run(
                [*git, "describe", "--always", "--tags"], capture_output=True, text=True, check=True
            ).stdout.strip()
            # whatever the user has set for git, equal changes are equal bytes
            how = ["--binary", "--no-color", "--no-ext-diff", "--no-textconv"]
            diff = [*git, "diff", *how, "HEAD", "--", "*.py", "assets"]
            changes = subprocess.run(diff, capture_output=True, check=True).stdout
            return f"{found}-dirty-{hashlib.sha256(changes).hexdigest()[:8]}" if changes else found
        except (OSError, subprocess.CalledProcessError):
            pass  # no git here, or no commit yet: the hash says the same
    digest = hashlib.sha256()
    for file in sorted(CODE_ROOT.rglob("*.py")):
        if not any(part.startswith(".") for part in file.relative_to(CODE_ROOT).parts):
            digest.update(file.read_bytes())
    return f"sha256:{digest.hexdigest()[:16]}"
