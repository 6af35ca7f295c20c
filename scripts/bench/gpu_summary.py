"""What scripts/gpu_suite.sh found, in ten lines: what held, what did not, what to send.

Usage: python -m scripts.bench.gpu_summary DIR

Reads what the suite has written to DIR, whichever of it is there.
"""

import json
import re
import statistics
import sys
from pathlib import Path

KERNEL = re.compile(r"PyTorch instead of the Triton kernel for .*")
GRAPHS = re.compile(r"decoder steps of .* are not captured as CUDA graphs: .*")
TESTS = re.compile(r"\d+ (?:passed|failed|error)[\w, ]* in [\d.]+s")
IDENTICAL = re.compile(r"(\d+) of \1 identical")
LONGEST = 150  # characters of a reason


def read_rows(path: Path) -> list[dict]:
    """The rows of a file; one that was not written to its end, because its stage was stopped, is left out."""
    rows = []
    for line in path.read_text().splitlines() if path.exists() else []:
        try:
            rows.append(json.loads(line))
        except json.JSONDecodeError:
            continue
    return rows


class Findings:
    """Of one folder: stages, rows, and the report."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.stages = {row["stage"]: row for row in read_rows(folder / "stages.jsonl")}  # the last of each counts
        report = folder / "report.txt"
        self.report = report.read_text() if report.exists() else ""

    def lines(self) -> list[str]:
        machine = re.search(r".*, torch \S+, CUDA .*", self.report)
        return [
            f"machine: {machine[0] if machine else 'unknown'}",
            *(f"{name}: {self._stage(name, self._tests(name))}" for name in ("kernels", "searches")),
            f"Triton kernel: {self._reason(KERNEL, ('attention',))}",
            f"CUDA graphs: {self._reason(GRAPHS, ('bart', 'gpt2', 'base'))}",
            f"a step of attention: {self._stage('attention', self._attention())}",
            *(
                "; ".join(self._decoding(name) for name in names)
                for names in (("bart", "gpt2", "base"), ("largest", "budget"))
            ),
            f"kept of the source: {self._stage('memory', self._memory())}",
        ]

    def _stage(self, name, found):
        ended = self.stages.get(name, {}).get("ended", "not run")
        return ", ".join(part for part in (ended, found) if part)

    def _tests(self, name):
        """pytest's last line of this stage."""
        parts = self.report.split(f"\n== {name}, ")[1:]
        found = TESTS.findall(parts[-1].partition(f"\n== {name}: ")[0]) if parts else []
        return found[-1] if found else ""

    def _reason(self, pattern, shown_by):
        """How often something fell back, and why the first time; pytest shows what tests log only where they fail."""
        found = pattern.findall(self.report)
        if not found:
            ran = [name for name in shown_by if name in self.stages]
            return f"no fallback reported by {', '.join(ran)}" if ran else "not known"
        return f"FALLBACK {len(found)} times: {found[0][:LONGEST]}"

    def _attention(self):
        shares = {}
        for row in read_rows(self.folder / "attention.jsonl"):
            shares.setdefault(row["layout"], []).append(row["of_floor"])
        return ", ".join(f"{layout} {statistics.median(shares[layout]):.0%} of the floor" for layout in shares)

    def _decoding(self, name):
        found = []
        for row in read_rows(self.folder / f"{name}.jsonl"):
            seconds = row["seconds"]
            for mode in (mode for mode in seconds if mode != "stock"):
                gain = f"{seconds['stock'] / seconds[mode]:.2f}x" if "stock" in seconds else f"{seconds[mode]:.1f} s"
                told = row["lossless"].get(mode, "")
                differs = "" if not told or IDENTICAL.match(told) else f" ({told})"
                found.append(f"batch {row['batch']} {mode} {gain}{differs}")
            found += [f"batch {row['batch']} {mode} out of memory" for mode in row["out_of_memory"]]
        return f"{name}: {self._stage(name, ', '.join(found))}"

    def _memory(self):
        rows = [row["state_mib"] for row in read_rows(self.folder / "memory.jsonl")]
        shares = [row["stock"] / row["on"] for row in rows if row.get("on") and "stock" in row]
        return f"EL-attention keeps {min(shares):.1f} to {max(shares):.1f} times less than stock" if shares else ""


def main():
    if len(sys.argv) != 2:
        raise SystemExit(__doc__)
    print("\n".join(Findings(Path(sys.argv[1])).lines()))


if __name__ == "__main__":
    main()
