"""The table of bench/utilisation.py, with the report's own figures where it has them."""

from collections.abc import Mapping
from typing import Any

Row = dict[str, Any]
"""what was measured of a setting, or what was `said` in its place"""

GB = 1e9
# README of Qwen, one A100-SXM4-80G: GB at the peak and seconds a step of 8 sequences, by length.
REPORT: dict[str, dict[int, tuple[float, float]]] = {
    "1.8b/sft/lora": {256: (6.7, 1.0), 512: (7.4, 1.0), 1024: (8.4, 1.1), 2048: (11.0, 1.7), 4096: (16.2, 3.3),
                      8192: (21.8, 6.8)},
    "1.8b/sft/qlora": {256: (5.8, 1.4), 512: (6.0, 1.4), 1024: (6.6, 1.4), 2048: (7.8, 2.0), 4096: (10.2, 3.4),
                       8192: (15.8, 6.5)},
    "1.8b/sft/all": {256: (43.5, 2.1), 512: (43.5, 2.2), 1024: (43.5, 2.2), 2048: (43.5, 2.3), 4096: (47.1, 2.8),
                     8192: (48.3, 5.6)},
    "7b/sft/lora": {256: (20.1, 1.2), 512: (20.4, 1.5), 1024: (21.5, 2.8), 2048: (23.8, 5.2), 4096: (29.7, 10.1),
                    8192: (36.6, 21.3)},
    "7b/sft/qlora": {256: (11.5, 3.0), 512: (11.5, 3.0), 1024: (12.3, 3.5), 2048: (13.9, 7.0), 4096: (16.9, 11.6),
                     8192: (23.5, 22.3)},
}  # fmt: skip
HEAD = (
    "setting", "tokens/s", "s a step", "utilisation", "with what is computed again", "product, TFLOP/s", "peak, GB",
    "planned, GB", "report, GB / s",
)  # fmt: skip
PARTS = {"sample": "writing", "score": "judging", "learn": "learning"}


def utilisation(row: Row) -> tuple[float, float]:
    """Operations a second over those of a large product: those that the model asks for, and all that are done."""
    done = row["seconds"] * row["product_flops"]
    return (row["flops"] - row["again"]) / done, row["flops"] / done


def table(rows: Mapping[str, Row]) -> str:
    """In Markdown, under a line that says on what."""
    devices = dict.fromkeys(row["device"] for row in rows.values())
    lines = [f"On {'; '.join(devices)}:", "", f"| {' | '.join(HEAD)} |", "| --- " * len(HEAD) + "|"]
    return "\n".join([*lines, *(f"| {' | '.join(cells(name, row))} |" for name, row in rows.items())])


def cells(name: str, row: Row) -> list[str]:
    report = REPORT.get(name.rsplit("/", 2)[0], {}).get(row["length"])
    beside = f"{report[0]} / {report[1]}" if report else ""
    if "said" in row:
        return [name, row["said"], *[""] * 6, beside]
    parts = ", ".join(f"{PARTS[part]} {seconds:.2f}" for part, seconds in row["phases"].items())
    asked, done = utilisation(row)
    return [
        name, f"{row['tokens'] / row['seconds']:,.0f}", f"{row['seconds']:.2f}" + (f" ({parts})" if parts else ""),
        f"{asked:.0%}", f"{done:.0%}", f"{row['product_flops'] / 1e12:,.3g}", f"{row['peak'] / GB:.2f}",
        f"{row['planned'] / GB:.2f}", beside,
    ]  # fmt: skip
