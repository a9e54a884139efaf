"""Renders results as one Markdown table, with the ratio to the best peer in each row."""

import os
import re
import statistics

OURS = "packmule"
BEGIN, END = "<!-- bench: begin -->", "<!-- bench: end -->"


def machine():
    """What the numbers depend on, and nothing that names the machine."""
    info = {"cores": len(os.sched_getaffinity(0)), "kernel": re.match(r"[\d.]*\d", os.uname().release).group(), "cpu": os.uname().machine}
    with open("/proc/cpuinfo") as file:
        for line in file:
            if line.startswith("model name"):
                info["cpu"] = line.split(":", 1)[1].strip()
                break
    with open("/proc/meminfo") as file:
        info["ram_gib"] = round(int(file.readline().split()[1]) / (1 << 20), 1)
    return info


def seconds(value):
    return f"{value:.2f}" if value < 10 else f"{value:.1f}" if value < 100 else f"{value:.0f}"


def ratio(ours, peers):
    """Ours over the best peer's: below 1 is better."""
    if ours is None or not peers:
        return "–"
    best = min(peers, key=peers.get)
    return f"**{ours / peers[best]:.2f}** ({best})" if peers[best] else "–"


def medians(result, step, field):
    """{tool: median over the runs}."""
    found = {}
    for tool in result["tools"]:
        values = [row[field] for row in result["measured"] if row["step"] == step and row["tool"] == tool and field in row]
        if values:
            found[tool] = statistics.median(values)
    return found


def failure(result, step, tool):
    return any(row["step"] == step and row["tool"] == tool and "error" in row for row in result["measured"])


def table(result, steps):
    """`steps` is [(step, title)] in order."""
    tools = result["tools"]
    lines = ["| step | " + " | ".join(tools) + " | ours / best peer |", "| --- |" + " ---: |" * len(tools) + " --- |"]
    for step, title in steps:
        times, memory = medians(result, step, "seconds"), medians(result, step, "rss")
        if not times and not any(failure(result, step, tool) for tool in tools):
            continue
        cells = []
        for tool in tools:
            if tool in times:
                cells.append(f"{seconds(times[tool])} s" + (f" · {memory[tool] / (1 << 20):.0f} MiB" if tool in memory else ""))
            else:
                cells.append("failed" if failure(result, step, tool) else "–")
        peers = {tool: value for tool, value in times.items() if tool != OURS}
        lines.append(f"| {title} | " + " | ".join(cells) + f" | {ratio(times.get(OURS), peers)} |")
    return lines + size_rows(result, tools)


def size_rows(result, tools):
    lines = []
    for stage in ("linux", "all"):
        sizes = {}
        for tool in tools:
            found = [row["sizes"] for row in result["sizes"] if row["stage"] == stage and row["tool"] == tool]
            if found:
                sizes[tool] = found[-1]
        if not sizes:
            continue
        what = "after the first backup of the Linux source" if stage == "linux" else "after everything"
        for kind, title in (("repository", f"repository {what}"), ("derived", "– apart: index, caches, reserve")):
            values = {}
            for tool, parts in sizes.items():
                values[tool] = parts["repository"] if kind == "repository" else sum(parts.values()) - parts["repository"]
            cells = [f"{values[tool] / 1e6:.1f} MB" if tool in values else "–" for tool in tools]
            peers = {tool: value for tool, value in values.items() if tool != OURS}
            last = ratio(values.get(OURS), peers) if kind == "repository" else "–"
            lines.append(f"| {title} | " + " | ".join(cells) + f" | {last} |")
    return lines


def markdown(result, steps):
    """The whole part between the markers."""
    m, runs = result["machine"], result["runs"]
    data = "; ".join(f"{name}: {text}" for name, text in result["data"].items())
    lines = [
        f"Measured {result['date']} on {m['cores']} cores of {m['cpu']}, {m['ram_gib']} GiB RAM, Linux {m['kernel']};"
        f" {'median of ' + str(runs) + ' runs' if runs > 1 else 'one run'}.",
        "",
        "Versions: " + "; ".join(result["versions"][tool] for tool in result["tools"]) + ".",
        f"Data: {data}.",
        "",
        *table(result, steps),
    ]
    errors = [f"- {tool} is left out: {error}" for tool, error in result["broken"].items()]
    errors += [f"- {row['tool']}, {row['step']}: {row['error']}" for row in result["measured"] if "error" in row]
    return "\n".join(lines + (["", "Failures:", *errors] if errors else [])) + "\n"


def write_docs(path, text, marks=(BEGIN, END)):
    """Puts `text` between the markers of the page; a page without them gets them at its end."""
    begin, end = marks
    page = "# Performance\n"
    if os.path.exists(path):
        with open(path) as file:
            page = file.read()
    if begin not in page or end not in page:
        page = f"{page.rstrip()}\n\n{begin}\n{end}\n"
    before, rest = page.split(begin, 1)
    after = rest.split(end, 1)[1]
    with open(path, "w") as file:
        file.write(f"{before}{begin}\n{text}{end}{after}")
