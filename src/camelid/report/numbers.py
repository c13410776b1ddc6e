"""Numbers as people read them: 0.803, 1 m 52 s, 1.2 GB."""

from __future__ import annotations

import json
from typing import Any

NONE = "–"
LONGEST = 200  # characters of a list in a plain table


def show_score(value: float) -> str:
    """Three decimals up to 10 ("0.803"), four significant digits beyond ("1,235")."""
    text = f"{value:.3f}" if abs(value) < 10 else f"{value:,.4g}" if abs(value) < 1000 else f"{value:,.0f}"
    return text.replace("-", "−") if float(text.replace(",", "")) else "0.000"


def show_signed(value: float) -> str:
    """A difference with its sign: "+0.040", "−0.240"; what rounds to nothing has none."""
    text = f"{value:+.3f}"
    return text[1:] if float(text) == 0 else text.replace("-", "−")


def show_number(value: float) -> str:
    """A label that is a number, as short as it goes: "4", "3.25", "−0.004", "12,346", "1.2e-05"."""
    if value and abs(value) < 0.001:
        text = f"{value:.2g}"
    else:
        text = f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3f}".rstrip("0").rstrip(".")
    return text.replace("-", "−") if text != "-0" else "0"


def show_count(value: float) -> str:
    """A whole number in groups of three: "1,421"."""
    return f"{value:,.0f}".replace("-", "−")


def show_share(value: float) -> str:
    """A share of one in per cent: "12.3 %"."""
    return f"{100 * value:.1f} %"


def show_p(value: float) -> str:
    """A p value to three decimals; "< 0.001" below that."""
    return "< 0.001" if value < 0.001 else f"{value:.3f}"


def show_seconds(value: float) -> str:
    """A duration in its two largest units: "0.02 s", "1.3 s", "28 s", "1 m 52 s", "2 h 5 m", "3 d 4 h"."""
    if value < 9.95:
        return "< 0.01 s" if value < 0.005 else f"{value:.2f} s" if value < 0.1 else f"{value:.1f} s"
    whole = round(value)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} m {whole % 60} s"
    minutes = round(value / 60)
    if minutes < 24 * 60:
        return f"{minutes // 60} h {minutes % 60} m"
    hours = round(value / 3600)
    return f"{hours // 24} d {hours % 24} h"


def show_memory(megabytes: float) -> str:
    """A size given in MB: "620 MB", "1.2 GB"."""
    return f"{megabytes:.0f} MB" if megabytes < 999.5 else f"{megabytes / 1024:.1f} GB"


def show_value(value: Any) -> str:
    """Any JSON or TOML value in one short line, for tables whose meaning the report does not know."""
    if value is None:
        return NONE
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return str(value)  # a seed or a year is no amount, so no groups of three
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, str):
        return value
    text = json.dumps(value, ensure_ascii=False, default=str)
    return text if len(text) <= LONGEST else f"{text[:LONGEST]} …"
