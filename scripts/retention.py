#!/usr/bin/env python3
"""What attention variants keep of the score of multi-head attention, and what their parameters buy.

Reads a CSV file with the columns variant, parameters, and one or more scores of which more is better (accuracy, BLEU).
The parameters may be those of the attentions or of whole models. For each score this prints

    retention           score / score of mha
    gain per parameter  (score / score of sha - 1) / (parameters / parameters of sha - 1)

The second is the relative gain over a single head by the relative increase in parameters. It has no value for sha, for
what has no more parameters than sha, and where the file has no sha.
"""

import argparse
import csv
import math
import sys
from collections.abc import Iterable

BASE, SINGLE_HEAD = "mha", "sha"


def retention(score: float, base: float) -> float:
    """``score / base``, of mha."""
    return score / base


def gain_per_parameter(score: float, parameters: float, sha_score: float, sha_parameters: float) -> float | None:
    """The relative gain over a single head by the relative increase in parameters, None where there is no increase."""
    if parameters <= sha_parameters:
        return None
    return (score / sha_score - 1) / (parameters / sha_parameters - 1)


def read(file: Iterable[str], name: str) -> dict[str, dict[str, float]]:
    """``{variant: {column: number}}`` of a CSV file, of which ``name`` is the name in messages.

    Raises:
        ValueError: a column or value is missing, or is no positive number.
    """
    reader = csv.DictReader(file, strict=True)
    header = reader.fieldnames or ()
    if not {"variant", "parameters"} < set(header) or len(set(header)) < len(header):
        raise ValueError(f"{name}: the header has to be variant,parameters,SCORE[,SCORE ...], each once")
    table: dict[str, dict[str, float]] = {}
    for row in reader:
        variant = row.pop("variant")
        if variant in table:
            raise ValueError(f"{name}, line {reader.line_num}: {variant} stands there twice")
        try:
            table[variant] = {column: float(value) for column, value in row.items()}
        except (TypeError, ValueError):
            raise ValueError(
                f"{name}, line {reader.line_num}: a value is missing, one too many, or no number"
            ) from None
        if not all(0 < value < math.inf for value in table[variant].values()):
            raise ValueError(f"{name}, line {reader.line_num}: parameters and scores are more than 0")
    if BASE not in table:
        raise ValueError(f"{name}: there is no {BASE}, which the others are compared with")
    return table


def rows(table: dict[str, dict[str, float]]) -> Iterable[list[str]]:
    """The lines of the Markdown table, as cells."""
    scores = [column for column in table[BASE] if column != "parameters"]
    yield ["variant", "parameters", *(f"{name}{what}" for name in scores for what in ("", ": retention", ": gain"))]
    base, single = table[BASE], table.get(SINGLE_HEAD)
    for variant, found in table.items():
        cells = [variant, f"{found['parameters']:,.0f}"]
        for name in scores:
            gain = single and gain_per_parameter(found[name], found["parameters"], single[name], single["parameters"])
            shown = "-" if gain is None else f"{gain:.3f}"
            cells += [f"{found[name]:.2f}", f"{100 * retention(found[name], base[name]):.1f} %", shown]
        yield cells


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("table", metavar="TABLE.csv", help="the scores, - for standard input")
    name = parser.parse_args(argv).table
    try:
        if name == "-":
            table = read(sys.stdin, "standard input")
        else:
            with open(name, newline="", encoding="utf-8-sig") as file:
                table = read(file, name)
    except (OSError, ValueError, csv.Error) as error:
        parser.error(str(error))
    for i, row in enumerate(rows(table)):
        print("| " + " | ".join(row) + " |")
        if i == 0:
            print("|" + "---|" * len(row))


if __name__ == "__main__":
    main()
