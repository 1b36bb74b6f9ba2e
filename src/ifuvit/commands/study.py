"""`ifuvit study`."""

from typing import Any

from ifuvit.studies.run import (
    StudyAnalyzeConfig,
    StudyExportConfig,
    StudyImportConfig,
    StudyMakeConfig,
    StudyServeConfig,
    run,
    serve,
)
from ifuvit.utils.command_line import parse_action
from ifuvit.utils.files import read_json

_HELP = """usage: ifuvit study ACTION [ARGUMENTS]

Have people count objects in models' images, or rank the images of several models.

actions:
  make     count|preference MODELS --out DIR                 draw or take images, blind them, assign them to raters
  serve    DIR                                               serve the pages until interrupted
  export   DIR csv|json|label-studio|forms --out PLACE       answers for other programs, or forms without a server
  import   DIR FILES                                         take answers that came back from forms
  analyze  DIR                                               what the answers say, and how sure it is

`ifuvit study ACTION --help` tells an action's arguments."""
_ACTIONS: dict[str, Any] = {
    "make": StudyMakeConfig,
    "serve": StudyServeConfig,
    "export": StudyExportConfig,
    "import": StudyImportConfig,
    "analyze": StudyAnalyzeConfig,
}


def main(arguments: list[str]) -> None:
    """Entry point of the command."""
    config = parse_action(_ACTIONS, arguments, command="study", text=_HELP)
    if config is None:
        return
    if isinstance(config, StudyServeConfig):
        serve(config)
        return
    written = run(config)
    if isinstance(config, StudyMakeConfig):
        from ifuvit.studies.design import read_study
        from ifuvit.studies.tables import overview

        print(overview(read_study(written), config.interval_width))
        print(f"{written}: the study; `ifuvit study serve {written}` serves it")
        return
    if isinstance(config, StudyAnalyzeConfig):
        from ifuvit.studies.tables import result_table

        print(result_table(read_json(written)))
    print(f"{written}: written")
