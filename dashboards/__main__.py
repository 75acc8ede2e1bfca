"""``python -m dashboards`` writes the boards and the rules; ``--queries`` prints every query, a JSON line each."""

import argparse
import json
from pathlib import Path

from dashboards import grafana, queries, rules

BUILT = Path(__file__).resolve().parent / "built"


def built() -> dict[Path, str]:
    """Every file that this package makes, by its place."""
    boards = {BUILT / "dashboards" / f"{board.uid}.json": grafana.render(board) for board in queries.BOARDS}
    return {**boards, BUILT / "rules.yaml": rules.render()}


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m dashboards", description=__doc__)
    parser.add_argument("--queries", action="store_true", help="print every query, its variables left in")
    if parser.parse_args().queries:
        for asked in queries.plain():
            print(json.dumps(asked._asdict(), ensure_ascii=False))
        return
    files = built()
    (BUILT / "dashboards").mkdir(exist_ok=True)
    for stale in set((BUILT / "dashboards").glob("*.json")) - set(files):
        stale.unlink()
    for path, text in files.items():
        path.write_text(text)


if __name__ == "__main__":
    main()
