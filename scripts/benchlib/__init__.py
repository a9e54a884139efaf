"""The parts of scripts/bench: data, peers, tools, measuring, the report."""
