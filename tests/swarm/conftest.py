"""What schedules of faults met is told at the end, also where several processes ran them."""

from collections import Counter


def pytest_terminal_summary(terminalreporter):
    met = Counter()
    for report in terminalreporter.getreports("passed") + terminalreporter.getreports("failed"):
        if report.when == "call":
            met.update(dict(report.user_properties).get("met", {}))
    if met:
        told = ", ".join(f"{count} {kind}" for kind, count in met.items())
        terminalreporter.write_line(f"met: {told}")
