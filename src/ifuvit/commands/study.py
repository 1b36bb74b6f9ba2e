"""`ifuvit study`."""

from functools import partial
from typing import Any

from ifuvit.studies.config import (
    ACTIONS,
    StudyAddRatersConfig,
    StudyAnalyzeConfig,
    StudyExportConfig,
    StudyImportConfig,
    StudyMakeConfig,
    StudyServeConfig,
    StudyWithdrawConfig,
)
from ifuvit.utils.command_line import Actions, parse

CONFIG = Actions(
    word="action",
    about="Have people count objects in images, or rank or rate the images of several models.",
    configs=ACTIONS,
)


def main(arguments: list[str]) -> dict[str, Any]:
    """Entry point of the command."""
    config = parse(CONFIG, arguments, prog="ifuvit study")
    from ifuvit.studies import run

    match config:
        case StudyMakeConfig():
            from ifuvit.studies.tables import overview

            print(overview(run.make(config), config.interval_width))
            print(f"{config.out}: the study; `ifuvit study serve {config.out}` serves it")
            return {"out": config.out}
        case StudyServeConfig():
            run.serve(config, say=partial(print, flush=True))
            return {}
        case StudyAddRatersConfig():
            raters, lacking = run.add(config)
            for rater in raters:
                print(f"{rater.id}: {len(rater.tasks)} tasks, link /r/{rater.token}/ at the study's address")
            if lacking:
                print(f"{lacking} answers are lacking still: an item can be only once with each rater; add more raters")
            return {
                "raters": [{"id": one.id, "tasks": len(one.tasks), "link": f"/r/{one.token}/"} for one in raters],
                "lacking": lacking,
            }
        case StudyWithdrawConfig():
            deleted = run.withdraw(config)
            print(f"{config.study}: rater {config.rater} has withdrawn; {deleted} answers were deleted")
            print("files that were exported before still have them: export them again, and delete the old ones")
            return {"deleted": deleted}
        case StudyImportConfig():
            entries, new = run.import_answers(config)
            print(f"{config.study}: {len(config.files)} files, {entries} answers, {new} of them new")
            return {"answers": entries, "new": new}
        case StudyExportConfig():
            run.export(config)
            print(f"{config.out}: written")
            return {"out": config.out}
        case StudyAnalyzeConfig():
            from ifuvit import results
            from ifuvit.reporting.plots import as_file
            from ifuvit.reporting.study_section import study_plots
            from ifuvit.reporting.tables import slug
            from ifuvit.studies.tables import result_table
            from ifuvit.utils.files import write_text

            written, result = run.analyze(config)
            for plot in study_plots(result):
                write_text(written.parent / "plots" / f"{slug(plot.title)}.svg", as_file(plot))
            print(result_table(results.to_json(result)))
            print(f"{written}: written")
            return {"result": written}
        case _:
            raise AssertionError(config)
