"""The table of bench/utilisation.py, beside the figures of Qwen's README."""

from collections.abc import Mapping
from typing import Any

Row = dict[str, Any]
"""the figures of a setting, or under `said` why there are none"""

GB = 1e9
# Qwen's README, on one A100-SXM4-80G: length -> (peak GB, seconds per step of 8 sequences).
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
COLUMNS = (
    "setting", "tokens/s", "s/step", "utilisation", "with recomputation", "product, TFLOP/s", "peak, GB",
    "planned, GB", "report, GB / s",
)  # fmt: skip
PHASE_TITLES = {"sample": "sampling", "score": "scoring", "learn": "updates"}


def utilisation(row: Row) -> tuple[float, float]:
    """Return the utilisation without and with recomputation: operations / those of a large product in that time."""
    done = row["seconds"] * row["product_flops"]
    return (row["flops"] - row["again"]) / done, row["flops"] / done


def table(rows: Mapping[str, Row]) -> str:
    """Return the Markdown table, below a line with the devices."""
    devices = dict.fromkeys(row["device"] for row in rows.values())
    lines = [f"On {'; '.join(devices)}:", "", f"| {' | '.join(COLUMNS)} |", "| --- " * len(COLUMNS) + "|"]
    return "\n".join([*lines, *(f"| {' | '.join(table_cells(name, row))} |" for name, row in rows.items())])


def table_cells(name: str, row: Row) -> list[str]:
    """Return the cells of a row of the table; bytes are shown in GB of 10^9."""
    report = REPORT.get(name.rsplit("/", 2)[0], {}).get(row["length"])
    beside = f"{report[0]} / {report[1]}" if report else ""
    if "said" in row:
        return [name, row["said"], *[""] * 6, beside]
    parts = ", ".join(f"{PHASE_TITLES[part]} {seconds:.2f}" for part, seconds in row["phases"].items())
    asked, done = utilisation(row)
    return [
        name, f"{row['tokens'] / row['seconds']:,.0f}", f"{row['seconds']:.2f}" + (f" ({parts})" if parts else ""),
        f"{asked:.0%}", f"{done:.0%}", f"{row['product_flops'] / 1e12:,.3g}", f"{row['peak'] / GB:.2f}",
        f"{row['planned'] / GB:.2f}", beside,
    ]  # fmt: skip
