"""The report: one HTML page that needs no other file, and all its tables."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from ifuvit import paper
from ifuvit.reporting import (
    analysis_section,
    cost_section,
    count_section,
    experiment_section,
    paper_section,
    quality_section,
    speed_section,
    study_section,
    tables,
    training_section,
)
from ifuvit.reporting.collection import Collection, collect
from ifuvit.reporting.headline import headline
from ifuvit.reporting.sample_section import grids
from ifuvit.reporting.source_section import sources
from ifuvit.reporting.tables import Table
from ifuvit.reporting.templating import environment
from ifuvit.utils.errors import InputError
from ifuvit.utils.files import atomic_directory, now, package_version, write_text


def write(directories: Sequence[Path], out: Path, *, title: str) -> Path:
    """Write the report of all results in some directories to the HTML file `out`, and its tables into OUT-tables/ next to
    it; return `out`.

    Raises:
        InputError: a directory is missing, there are no results, one is broken, or OUT-tables holds something else.
    """
    next_to_it = out.with_name(f"{out.stem}-tables")
    if other := sorted(path.name for path in next_to_it.glob("*") if path.suffix not in (".csv", ".md")):
        raise InputError(f"{next_to_it}: holds {other[0]}, so it is not of an earlier report; give another --out")
    found = collect(directories)
    page = render(found, title=title)
    with atomic_directory(next_to_it) as directory:
        for table in all_tables(found):
            (directory / f"{table.name}.csv").write_text(tables.as_csv(table), encoding="utf-8")
            (directory / f"{table.name}.md").write_text(tables.as_markdown(table), encoding="utf-8")
    write_text(out, page)
    return out


def render(found: Collection, *, title: str) -> str:
    """The report as HTML."""
    made = environment()
    listed, drawn = sources(found), grids(found)
    counted: dict[Path, list[Table]] = {}
    for one in count_section.counted(found):
        counted.setdefault(one.file, []).extend(count_section.count_tables(one))
    made.globals |= {
        "number": tables.number,
        "references": {source.file: position for position, source in enumerate(listed, start=1)},
    }
    context: dict[str, Any] = {
        "title": title,
        "paper_source": paper.SOURCE,
        "headline": headline(found),
        "compared": [*paper_section.table_1(found), *paper_section.table_2(found)],
        "experiments": [
            {
                "title": f"{one.result.title}{one.apart}",
                "plots": experiment_section.experiment_plots(one.result),
                "table": experiment_section.experiment_table(one),
                "claims": experiment_section.claims_tables(one),
            }
            for one in found.experiments
        ],
        "sweeps": [
            {
                "missing": len(one.result.missing),
                "plots": experiment_section.sweep_plots(one.result.points),
                "table": table,
            }
            for one, table in zip(found.sweeps, experiment_section.sweep_tables(found))
        ],
        "training": {
            "plots": training_section.training_plots(found.trainings),
            "tables": training_section.training_tables(found.trainings),
            "grids": (training := training_section.sample_grids(found.trainings)),
            "grid_steps": training_section.grid_steps(training),
        },
        "quality": {
            "plots": quality_section.quality_plots(found),
            "tables": quality_section.quality_tables(found),
        },
        "grids": drawn,
        "counts": {
            "plots": count_section.count_plots(found),
            "overview": count_section.overview(found),
            "counted": counted,
        },
        "analyses": [
            {
                "title": f"{analysis_section.TITLES[one.result.action]}{one.apart}",
                "plots": analysis_section.analysis_plots(one.result),
                "tables": analysis_section.report_tables(one),
                "figures": analysis_section.figure_uris(one),
                "notes": one.result.notes,
            }
            for one in found.analyses
        ],
        "studies": [
            {
                "study": one.result,
                "plots": study_section.study_plots(one.result),
                "tables": study_section.study_tables(one),
            }
            for one in found.studies
        ],
        "costs": [*cost_section.counted_tables(found), *cost_section.measured_table(found)],
        "speed": {
            "plots": speed_section.scaling_plots(found),
            "tables": speed_section.comparison_tables(found),
            "scaling": speed_section.scaling_tables(found),
        },
        "sources": listed,
        "missing": missing(found, any(len(grid.models) > 1 for grid in drawn)),
        "made": now(),
        "version": package_version(),
    }
    return made.get_template("report.html.j2").render(context)


def missing(found: Collection, side_by_side: bool) -> list[tuple[str, str]]:
    """(what the report would also show, the command that makes it)."""
    names = {one.result.name for one in found.experiments}
    curves = found.sweeps or any(one.result.points for one in found.experiments)
    wishes = [
        (
            not found.measured,
            "distances, alignment and Table 2",
            "ifuvit evaluate MODEL --data DIR --out RESULT.json",
        ),
        (
            "table1" not in names,
            "Table 1 with intervals over seeds",
            "ifuvit experiment table1 --scale openmoji --seeds 3 --out DIR",
        ),
        ("ablation" not in names, "ablation bars", "ifuvit experiment ablation --scale openmoji --seeds 3 --out DIR"),
        (
            not curves,
            "the curve over guidance scales",
            "ifuvit evaluate RUN... --guidance-scales 1 2 4 --data DIR --out DIR",
        ),
        (
            not any(run.result.evaluations for run in found.trainings),
            "distance and score during training",
            "ifuvit train ... --evaluate-every N --evaluate-data DIR",
        ),
        (
            not found.curves,
            "how long training takes until images are right",
            "ifuvit bench quality RUN... --out RESULT.json",
        ),
        (not found.trainings, "losses", "ifuvit train ..., whose metrics.jsonl is read"),
        (
            not count_section.counted(found),
            "object counts",
            "ifuvit evaluate IMAGES --metrics counts --out RESULT.json",
        ),
        (
            not found.analyses,
            "attention maps, their rank, where text matters",
            "ifuvit analyze attention MODEL... --out DIR, and its other actions",
        ),
        (not found.studies, "what people counted or preferred", "ifuvit study make ..., then ifuvit study analyze DIR"),
        (not found.costs, "costs of all presets", "ifuvit costs --json > costs.json"),
        (not found.benchmarks, "speed on a machine", "ifuvit bench train --out RESULT.json, and its other actions"),
        (
            not side_by_side,
            "the same prompts and seeds by several models",
            "ifuvit generate --prompts-file FILE --model MODEL --out DIR",
        ),
    ]
    return [(what, command) for absent, what, command in wishes if absent]


def all_tables(found: Collection) -> list[Table]:
    """All tables that the results have something for, each under a name of its own."""
    every = [
        *paper_section.table_1(found),
        *paper_section.table_2(found),
        *map(experiment_section.experiment_table, found.experiments),
        *(table for one in found.experiments for table in experiment_section.claims_tables(one)),
        *experiment_section.sweep_tables(found),
        *training_section.training_tables(found.trainings),
        *quality_section.quality_tables(found),
        *count_section.overview(found),
        *(table for one in count_section.counted(found) for table in count_section.count_tables(one)),
        *(table for one in found.analyses for table in analysis_section.report_tables(one)),
        *(table for one in found.studies for table in study_section.study_tables(one)),
        *cost_section.counted_tables(found),
        *cost_section.measured_table(found),
        *speed_section.comparison_tables(found),
        *speed_section.scaling_tables(found),
        *map(experiment_section.evaluation_table, found.measured),
    ]
    taken: dict[str, int] = {}
    for position, table in enumerate(every):
        taken[table.name] = taken.get(table.name, 0) + 1
        if taken[table.name] > 1:
            every[position] = replace(table, name=f"{table.name}-{taken[table.name]}")
    return every
