"""The readers of `fuzz` again, with inputs that coverage leads: what reaches new code is kept and changed further.

    python -m tests.proof.guided --runs 200000 --seed 1      each reader in a process of its own
    python -m tests.proof.guided --target batches --runs 2000000

Needs atheris, which nothing else does: `make soak` puts it into an environment of its own. The seeds are the corpus of
`fuzz`, which is that of `p2p vectors`. The first byte of an input says of which of them it is made, and with that, of
some readers, which rules it is read by. An input that ends otherwise than by being taken or refused is printed and kept
in the folder that is named then.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from tests.proof.fuzz import Target

BYTES_MAX: Final = 4096
INPUT_S_MAX: Final = 60
"""One input takes microseconds; this is for a machine that is busy with other things."""
MEMORY_MB_MAX: Final = 1024


def lead(name: str, runs: int, seed: int, folder: Path) -> None:
    """Try one reader, in this process, which ends with it: with 0 if nothing was found."""
    import atheris

    with atheris.instrument_imports(include=["p2p"]):
        from p2p.errors import CryptoError, RemoteProtocolError
        from tests.proof.fuzz import TARGETS
    target = next(target for target in TARGETS if target.name == name)

    def read(data: bytes) -> None:
        if data:
            with suppress(RemoteProtocolError, CryptoError):
                target.read(data[1:], data[0] % len(target.corpus))

    seeds = _write_seeds(target, folder)
    options = {
        "runs": runs, "seed": seed, "max_len": BYTES_MAX, "timeout": INPUT_S_MAX, "rss_limit_mb": MEMORY_MB_MAX,
        "artifact_prefix": f"{folder}/", "print_final_stats": 1, "verbosity": 0,
    }  # fmt: skip
    atheris.Setup([sys.argv[0], *(f"-{option}={value}" for option, value in options.items()), str(seeds)], read)
    atheris.Fuzz()


def _write_seeds(target: Target, folder: Path) -> Path:
    seeds = folder / "seeds"
    seeds.mkdir()
    for number, data in enumerate(target.corpus[:256]):
        (seeds / str(number)).write_bytes(bytes((number,)) + data)
    return seeds


def lead_all(names: list[str], runs: int, seed: int) -> list[str]:
    """Try readers, each in a process of its own; return those that something was found in."""
    found: list[str] = []
    for name in names:
        folder = tempfile.mkdtemp(prefix="guided-")
        command = [sys.executable, "-m", "tests.proof.guided", "--target", name, "--runs", str(runs)]
        done = subprocess.run([*command, "--seed", str(seed), "--folder", folder], capture_output=True, check=False)
        sys.stdout.write(f"{name}: {'found something' if done.returncode else f'{runs} inputs'}\n")
        if done.returncode:
            found.append(name)
            sys.stdout.write(done.stderr.decode(errors="replace")[-4000:] + f"\nkept in {folder}\n")
        sys.stdout.flush()
    return found


def main() -> int:
    """0 if nothing was found."""
    parser = argparse.ArgumentParser(prog="python -m tests.proof.guided", description=__doc__)
    parser.add_argument("--target", help="only this reader, by its name in tests/proof/fuzz.py")
    parser.add_argument("--runs", type=int, default=100_000, help="inputs of each reader (default 100000)")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.folder is not None:
        lead(options.target, options.runs, options.seed, options.folder)
    from tests.proof.fuzz import TARGETS

    names = [target.name for target in TARGETS if options.target in (None, target.name)]
    if not names:
        parser.error(f"there is no reader {options.target!r}")
    return 1 if lead_all(names, options.runs, options.seed) else 0


if __name__ == "__main__":
    sys.exit(main())
