"""What the report holds: the page, one HTML file that needs no other, and all tables."""

from dataclasses import replace
from pathlib import Path
from typing import Any

from ifuvit.reporting import comparison, counting, figures, human, measured, paper, speed, tables
from ifuvit.reporting.headline import headline
from ifuvit.reporting.provenance import sources
from ifuvit.reporting.results import Estimate, Results
from ifuvit.reporting.samples import grids
from ifuvit.reporting.tables import Table, plain
from ifuvit.utils.files import now, package_version


def render(results: Results, *, title: str) -> str:
    """The report as HTML."""
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("ifuvit.reporting", "templates"),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    listed, drawn = sources(results), grids(results)
    judged: dict[Path, list[Table]] = {}
    for one in counting.judgments(results):
        judged.setdefault(one.file, []).extend(counting.judgment_tables(one))
    environment.globals |= {
        "plain": plain,
        "number": tables.number,
        "references": {source.file: position for position, source in enumerate(listed, start=1)},
    }
    environment.tests["estimate"] = lambda value: isinstance(value, Estimate)
    environment.tests["path"] = lambda value: isinstance(value, Path)
    context: dict[str, Any] = {
        "title": title,
        "paper_source": paper.SOURCE,
        "headline": headline(results),
        "compared": [*comparison.table_1(results), *comparison.table_2(results)],
        "experiments": [
            {"experiment": one, "plots": figures.experiment_plots(one), "table": table, "claims": measured.claims(one)}
            for one, table in zip(results.experiments, measured.experiments(results))
        ],
        "sweeps": [
            {"sweep": one, "plots": figures.sweep_plots(one.points), "table": table}
            for one, table in zip(results.sweeps, measured.sweeps(results))
        ],
        "training": {"plots": figures.training_plots(results), "tables": measured.trainings(results)},
        "grids": drawn,
        "counts": {"plots": figures.count_plots(results), "overview": counting.overview(results), "judged": judged},
        "studies": [
            {"study": one, "plots": human.study_plots(one), "tables": human.study_tables(one)}
            for one in results.studies
        ],
        "costs": [*measured.costs(results), *measured.speeds(results)],
        "speed": {"plots": speed.plots(results), "tables": speed.contests(results), "growth": speed.growth(results)},
        "sources": listed,
        "missing": missing(results, any(len(grid.models) > 1 for grid in drawn)),
        "made": now(),
        "version": package_version(),
    }
    return environment.get_template("report.html.j2").render(context)


def missing(results: Results, side_by_side: bool) -> list[tuple[str, str]]:
    """(what the report would also show, the command that makes it)."""
    names = {one.name for one in results.experiments}
    wishes = [
        (
            not results.evaluations,
            "distances, alignment and Table 2",
            "ifuvit evaluate MODEL --data DIR --out RESULT.json",
        ),
        (
            "table1" not in names,
            "Table 1 with intervals over seeds",
            "ifuvit experiment table1 --scale openmoji --seeds 3 --out DIR",
        ),
        ("ablation" not in names, "ablation bars", "ifuvit experiment ablation --scale openmoji --seeds 3 --out DIR"),
        (not results.sweeps, "the curve over guidance scales", "ifuvit sweep RUN... --data DIR --out DIR"),
        (
            not any(run.evaluations for run in results.trainings),
            "distance and score during training",
            "ifuvit train ... --evaluate-every N --evaluate-data DIR",
        ),
        (not results.trainings, "losses", "ifuvit train ..., whose metrics.jsonl is read"),
        (not counting.judgments(results), "object counts", "ifuvit count judge IMAGES --out RESULT.json"),
        (
            not results.studies,
            "what people counted or preferred",
            "ifuvit study make ..., then ifuvit study analyze DIR",
        ),
        (not results.costs, "costs of all presets", "ifuvit costs --json > costs.json"),
        (not results.benches, "speed on a machine", "ifuvit bench train --out RESULT.json, and its other actions"),
        (
            not side_by_side,
            "the same prompts and seeds drawn by several models",
            "ifuvit generate --prompts-file FILE --model MODEL --out DIR",
        ),
    ]
    return [(what, command) for absent, what, command in wishes if absent]


def all_tables(results: Results) -> list[Table]:
    """All tables that the results have something for, each under a name of its own."""
    found = [
        *comparison.table_1(results),
        *comparison.table_2(results),
        *measured.experiments(results),
        *(table for one in results.experiments for table in measured.claims(one)),
        *measured.sweeps(results),
        *measured.trainings(results),
        *counting.overview(results),
        *(table for one in counting.judgments(results) for table in counting.judgment_tables(one)),
        *(table for one in results.studies for table in human.study_tables(one)),
        *measured.costs(results),
        *measured.speeds(results),
        *speed.contests(results),
        *speed.growth(results),
        *map(measured.evaluation_table, results.evaluations),
    ]
    taken: dict[str, int] = {}
    for position, table in enumerate(found):
        taken[table.name] = taken.get(table.name, 0) + 1
        if taken[table.name] > 1:
            found[position] = replace(table, name=f"{table.name}-{taken[table.name]}")
    return found
