"""What a person sees of reproduce: the list, the status, and each row's verdict."""

from recbole_blair.reproduce.run import PASS, SCALES, WITHIN, load_results, results_path


def number(value):
    """Return a value in a few characters; - for none."""
    if value is None:
        return "-"
    if isinstance(value, float) and not value.is_integer():
        return f"{value:.4g}"
    return f"{value:,.0f}" if isinstance(value, int | float) and not isinstance(value, bool) else str(value)


def list_lines(rows):
    """Yield the table of rows: id, encoder, model, seeds, commands, published, tolerance, hours."""
    table = None
    for row in rows:
        if row.table != table:
            table = row.table
            yield f"\n{table}: {row.source}; values in {row.unit}"
            yield f"  cost, an estimate for one A100 or H200: {row.cost['derived']}"
        who = " · ".join(part for part in (row.model, row.encoder) if part and part != "none")
        values = ", ".join(f"{metric} {number(value)}" for metric, value in row.published.items())
        allowed = f"± {row.tolerance['relative']:.3g} x value" if row.tolerance["relative"] else "±"
        allowed += (
            f" or {row.tolerance['absolute']:g}" if row.tolerance["relative"] else f" {row.tolerance['absolute']:g}"
        )
        run = " ".join(command for command, _ in row.commands)
        seeds = f" · seeds {','.join(map(str, row.seeds))}" if row.seeds else ""
        yield f"  {row.id}"
        who = f" · {who}" if who else ""
        yield f"    data {row.data['dataset']}{who}{seeds} · {run} · about {row.cost['hours']:g} h"
        yield f"    {values} ({allowed}: {row.tolerance['why']})"
        for metric, why in row.reasons.items():
            yield f"    {metric}: not comparable, {why}"


def status_lines(rows, output_dir):
    """Yield which rows have results, what they say and where they are."""
    found = {
        (scale, row.table): load_results(results_path(f"{output_dir}/{scale}", row.table))
        for scale in SCALES
        for row in rows
    }
    for row in rows:
        cells = []
        for scale in SCALES:
            result = found[scale, row.table].get(row.id)
            where = results_path(f"{output_dir}/{scale}", row.table)
            cells.append(f"{scale}: {result['verdict']}, {result['time']}, {where}" if result else f"{scale}: none")
        yield f"{row.id:60}  " + "  ".join(cells)
    for scale in SCALES:
        there = sum(row.id in found[scale, row.table] for row in rows)
        yield f"{scale}: {there} of {len(rows)} rows have results"


def result_lines(result):
    """Yield the lines of one finished row."""
    yield f"{result['verdict']:17} {result['id']}  ({result['seconds']:.0f} s)"
    for check in result.get("checks", ()):
        yield f"    {check['verdict']:4} {check['name']}: {check['says']}"
    for figure in result.get("figures", ()):
        spread = f" ± {number(figure['deviation'])}" if "deviation" in figure else ""
        ours = f"ours {number(figure['ours'])}{spread}"
        yield (
            f"    {figure['metric']:28} published {number(figure['paper']):>12}  {ours:>22}  "
            f"difference {number(figure['difference']):>10}  {figure['verdict']} ({figure['why']})"
        )
    if result.get("note"):
        yield f"    note: {result['note']}"


def holds(result):
    """Tell whether a row's verdict is no failure."""
    return result["verdict"] in (PASS, WITHIN, "not comparable")
